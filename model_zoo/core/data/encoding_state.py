"""What an encoding leaves for the next one: configuration, vocabularies, contents of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model_zoo.core.data.parquet import parquet_files
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError
from model_zoo.core.files import sha256, write_aside

STATE = "encoding.json"
_PARTS = {"configuration", "vocabulary", "files"}  # of every version


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
        state: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: unreadable ({error}); delete it to encode again") from None
    if not isinstance(state, dict) or not state.keys() >= _PARTS:
        raise InputError(
            f"{path}: expected {', '.join(sorted(_PARTS))} in it; delete it to encode again"
        )
    return state


def known_state(dataset: DatasetSpec) -> dict[str, Any]:
    """What the encoding of a raw data set left.

    Raises:
        InputError: It has not been encoded yet, or that cannot be read.
    """
    path = Path(dataset.data_root) / dataset.dataset_id / STATE
    state = read_state(path)
    if state is None:
        raise InputError(f"{path}: no such file; the data set has not been encoded")
    return state


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Keep it for the next encoding."""
    with write_aside(path) as partial:
        partial.write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")


def stamp_and_digest(source: str, state: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """Of item_info or a split: place, size and time of each file, and a digest of all bytes.

    Args:
        source: The file, or the folder of its parts.
        state: What an encoding left: while the stamp is the same, so is its digest.
        name: Of the source in it.
    """
    files = [file for file in parquet_files(source) if file.is_file()]
    stamp = [
        [place_of(file, source), file.stat().st_size, file.stat().st_mtime_ns] for file in files
    ]
    known = (state or {}).get("files", {}).get(name, {})
    # Scoring needs no train file once the vocabularies are there.
    if known and stamp in ([], known["stamp"]):
        return dict(known)
    return {"stamp": stamp, "sha256": sha256(files)}


def place_of(file: Path, source: str) -> str:
    """Where a file is in the folder of its split; its name where it is the split."""
    return file.relative_to(source).as_posix() if Path(source).is_dir() else file.name
