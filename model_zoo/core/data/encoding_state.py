"""What an encoding leaves for the next one: configuration, vocabularies, contents of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from model_zoo.core.data.parquet import parquet_files
from model_zoo.core.errors import InputError
from model_zoo.core.files import write_aside

STATE = "encoding.json"


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Leaves that differ, as ``feature_cols[item_tags].max_len was 5, is 8``."""
    if isinstance(old, list) and isinstance(new, list):
        return differences(_by_name(old), _by_name(new), where)
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{where} was {old}, is {new}"]
    found = []
    for key in dict.fromkeys([*old, *new]):
        place = f"{where}[{key}]" if where == "feature_cols" else f"{where}.{key}".lstrip(".")
        if key not in new:
            found.append(f"{place} was removed")
        elif key not in old:
            found.append(f"{place} is new")
        else:
            found += differences(old[key], new[key], place)
    return found


def _by_name(columns: list[dict[str, Any]]) -> dict[str, Any]:
    return {column["name"]: column for column in columns}


def read_state(path: Path) -> dict[str, Any] | None:
    """What an encoding left, or ``None``.

    Raises:
        InputError: It cannot be read.
    """
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: unreadable ({error}); delete it to encode again") from None
    return state


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Keep it for the next encoding."""
    with write_aside(path) as partial:
        partial.write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")


def content_of(source: str, state: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """Content hash of a split; not computed again while size and time are the same."""
    files = [file for file in parquet_files(source) if file.is_file()]
    stamp = [
        [place_of(file, source), file.stat().st_size, file.stat().st_mtime_ns] for file in files
    ]
    known = (state or {}).get("files", {}).get(name, {})
    # Scoring needs no train file once the vocabularies are there.
    if known and stamp in ([], known["stamp"]):
        return dict(known)
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return {"stamp": stamp, "sha256": digest.hexdigest()}


def place_of(file: Path, source: str) -> str:
    """Where a file is in the folder of its split; its name where it is the split."""
    return file.relative_to(source).as_posix() if Path(source).is_dir() else file.name
