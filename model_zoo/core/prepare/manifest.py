"""``manifest.json``: name, size, SHA-256 and address of every file of a data set.

``qin-data fetch`` writes it, :func:`check_manifest` compares a folder with it, and a command
that changes a listed file on purpose says so in it (:func:`recorded_change`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_zoo.core.errors import InputError
from model_zoo.core.files import sha256, through_link, write_aside, writing

MANIFEST = "manifest.json"


def check_manifest(folder: str | os.PathLike[str]) -> list[str]:
    """Compare the files of a folder with its manifest.

    Args:
        folder: Where the data set is.

    Returns:
        One problem for each file that is missing or differs, with what was found and what was
        expected; none if all is well or there is no manifest.

    Raises:
        InputError: The manifest is no manifest.
    """
    place = Path(folder)
    problems = []
    for name, entry in read_manifest(place).items():
        path = place / name
        problem = difference(path, entry) if path.is_file() else f"{path}: no such file"
        if problem:
            problems.append(f"{problem}; expected as in {place / MANIFEST}")
    return problems


@contextmanager
def recorded_change(path: Path, *, command: str) -> Iterator[None]:
    """Afterwards the manifest, if there is one that lists ``path``, has the file as it is then.

    Where ``path`` is a link, so does the one beside the file that it points to.

    Raises:
        InputError: The manifest is no manifest; the block has not been entered.
    """
    places = {path, through_link(path)}
    manifests = {place: read_manifest(place.parent) for place in places}
    yield
    for place, entries in manifests.items():
        if place.name in entries:
            entry = file_entry(place, entries[place.name]["url"])
            entries[place.name] = entry | {"changed_by": command}
            write_manifest(place.parent, entries)


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> size, sha256, url; empty where there is no manifest.

    Raises:
        InputError: The manifest is no manifest.
    """
    path = folder / MANIFEST
    try:
        files: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8-sig"))["files"]
        if all({"size", "sha256", "url"} <= set(entry) for entry in files.values()):
            return files
        reason = "a file without size, sha256 or url"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error)
    raise InputError(f"{path}: not a manifest: {reason}; delete it, and fetch writes a new one")


def write_manifest(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Replace the manifest.

    Raises:
        InputError: It cannot be written.
    """
    path = folder / MANIFEST
    with writing(path), write_aside(path) as partial:
        partial.write_text(json.dumps({"files": entries}, indent=2) + "\n", encoding="utf-8")


def file_entry(path: Path, url: str | None) -> dict[str, Any]:
    """The file as it is now; ``url`` is None where it was put there by hand."""
    return {"size": path.stat().st_size, "sha256": sha256([path]), "url": url}


def difference(path: Path, entry: dict[str, Any]) -> str | None:
    """What of the file is not as in its entry, if anything."""
    size = path.stat().st_size
    if size != entry["size"]:
        return f"{path}: found {size} bytes, expected {entry['size']}"
    found = sha256([path])
    if found != entry["sha256"]:
        return f"{path}: found SHA-256 {found}, expected {entry['sha256']}"
    return None
