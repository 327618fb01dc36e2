"""What a training reads, as a few numbers: so that it goes on with the same data, or not at all."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import pyarrow.parquet as pq

from model_zoo.core.data.encoding_state import STATE, known_state
from model_zoo.core.data.parquet import parquet_files
from model_zoo.core.data.spec import DatasetSpec

_CHUNK = 1 << 20


class Fingerprint(TypedDict):
    """Of one source of a data set.

    Attributes:
        path: Where it is; of no matter for what is in it.
        rows: Of all its files together.
        content: A digest of their bytes, in order.
    """

    path: str
    rows: int
    content: str


def fingerprint(dataset: DatasetSpec) -> dict[str, Fingerprint]:
    """Rows and content of train, valid and item_info, and of a raw data set's vocabularies.

    Neither names nor times of files count. Every byte does: the files are read once, at the
    speed of their disk or of memory (about 4 GB a second), in little memory. Of a raw data set
    the encoding has done that already.

    Args:
        dataset: The data set as configured: checked, and encoded if it is raw.
    """
    sources = {n: path for n, path in dataset.sources().items() if n != "test"}
    state = known_state(dataset) if dataset.rebuild_dataset else {}
    found: dict[str, Fingerprint] = {}
    for name, path in sources.items():
        files = parquet_files(path)
        content = state["files"][name]["sha256"] if state else content_of(files)
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        found[name] = {"path": path, "rows": rows, "content": content}
    if state:
        text = json.dumps(state["vocabulary"], sort_keys=True)
        found["vocabularies"] = {
            "path": str(Path(dataset.data_root) / dataset.dataset_id / STATE),
            "rows": len(state["vocabulary"]),
            "content": hashlib.sha256(text.encode()).hexdigest(),
        }
    return found


def content_of(files: Iterable[Path]) -> str:
    """A digest of the bytes of all files, one after the other.

    A CRC-32 of each MiB: a single changed value never escapes it, and it is three times as
    fast as a cryptographic hash, which this need not be.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb", buffering=0) as stream:
            buffer = memoryview(bytearray(_CHUNK))
            while size := stream.readinto(buffer):
                digest.update(zlib.crc32(buffer[:size]).to_bytes(4, "little"))
    return digest.hexdigest()


def differences(before: dict[str, Fingerprint], now: dict[str, Fingerprint]) -> list[str]:
    """Each source that is not what it was, with what differs."""
    found = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            found.append(f"{name} is {'gone' if new is None else 'new'}")
        elif old["rows"] != new["rows"]:
            unit = "columns" if name == "vocabularies" else "rows"
            found.append(f"{name} ({new['path']}) had {old['rows']} {unit}, and has {new['rows']}")
        elif old["content"] != new["content"]:
            found.append(f"{name} ({new['path']}) has other content than it had")
    return found
