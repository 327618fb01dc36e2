"""``qin-data fetch``: the official files of a data set, verified, with a manifest beside them.

A download that was cut is continued where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from model_zoo.core.errors import InputError, suggestion
from model_zoo.core.files import require_writable, through_link, writing
from model_zoo.core.paths import path_argument
from model_zoo.core.prepare.download import ResumingDownloader
from model_zoo.core.prepare.manifest import difference, file_entry, read_manifest, write_manifest

EXAMPLE = "qin-data fetch MicroLens_1M_x1 --out data/"


@dataclass(frozen=True)
class _Source:
    """One published file: its address relative to the data set's, and its SHA-256 if known."""

    address: str
    sha256: str | None = None


@dataclass(frozen=True)
class _DataSet:
    base_url: str
    files: dict[str, _Source]
    # Fetched only when named with --files.
    companions: dict[str, _Source]


DATA_SETS = {
    "MicroLens_1M_x1": _DataSet(
        "https://recsys.westlake.edu.cn/MicroLens_1M_MMCTR/MicroLens_1M_x1",
        {
            "train.parquet": _Source(
                "train.parquet", "182fba831484d931e3943557cdd1b791861b2f921d0a7ff66bb34d492be7d5b1"
            ),
            "valid.parquet": _Source("valid.parquet"),
            "test.parquet": _Source("test.parquet"),
            "item_info.parquet": _Source("item_info.parquet"),
        },
        {
            "item_feature.parquet": _Source(
                "../item_feature.parquet",
                "a63d8cbe090a79ee18bdb51a4146a4205339cb4b3b81bcae26035c17a322fc65",
            )
        },
    )
}


def fetch(
    dataset_id: str,
    *,
    out: str | os.PathLike[str] = "data",
    base_url: str | None = None,
    files: list[str] | None = None,
    force: bool = False,
    timeout: float = 30.0,
    retries: int = 3,
    progress: bool = True,
) -> list[str]:
    """Download a data set's files to ``out/dataset_id`` and record them in its manifest.

    A file that is there and agrees with the manifest, or with its known SHA-256, is left alone.
    One that differs is not written over unless ``force``: it may be yours.

    Args:
        dataset_id: A key of :data:`DATA_SETS`.
        out: The folder of data sets.
        base_url: Another address of the data set's folder (a mirror).
        files: Names of the files to fetch; by default all that a model needs.
        force: Download files that differ from the manifest again.
        timeout: Seconds to wait for a connection, and for each next piece of data.
        retries: How often a cut connection is taken up again, each a second later.
        progress: Show progress bars, if standard output is a terminal.

    Returns:
        The names of the files that were downloaded.

    Raises:
        InputError: An unknown data set or file, pooch not installed, a server that cannot be
            reached or lacks the file, a wrong hash, or a disk that is full.
    """
    if dataset_id not in DATA_SETS:
        raise InputError(
            f"no data set '{dataset_id}'; known: {', '.join(DATA_SETS)}"
            f"{suggestion(dataset_id, DATA_SETS)}"
        )
    dataset = DATA_SETS[dataset_id]
    sources = dataset.files | dataset.companions
    names = list(dataset.files) if files is None else files
    unknown = [name for name in names if name not in sources]
    if unknown:
        raise InputError(f"{dataset_id}: no file {', '.join(unknown)}; known: {', '.join(sources)}")

    folder = Path(out) / dataset_id
    address = (base_url or dataset.base_url).rstrip("/") + "/"
    require_writable((folder / n for n in names if not (folder / n).is_file()), [folder])
    entries = read_manifest(folder)
    downloaded = []
    for name in names:
        source, path = sources[name], through_link(folder / name)
        if path.is_file() and not (force and _is_stale(path, entries.get(name))):
            entries[name] = _accept(path, source.sha256, entries.get(name))
        else:
            url = urljoin(address, source.address)
            quiet = not (progress and sys.stdout.isatty())
            aside = path.with_name(f".{path.name}.partial-download")
            downloader = ResumingDownloader(aside, timeout=timeout, retries=retries, quiet=quiet)
            with writing(path):
                _download(path, url, source.sha256, downloader)
            entries[name] = file_entry(path, url)
            downloaded.append(name)
        # After each file: what is complete stays so if the next one fails.
        write_manifest(folder, entries)
    return downloaded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``qin-data fetch``."""
    parser.add_argument("dataset", metavar="DATASET", help=f"one of: {', '.join(DATA_SETS)}")
    parser.add_argument(
        "--out", type=path_argument, default="data", metavar="FOLDER", help="folder of data sets"
    )
    parser.add_argument("--base-url", metavar="URL", help="the data set's folder on a mirror")
    optional = [name for dataset in DATA_SETS.values() for name in dataset.companions]
    parser.add_argument(
        "--files",
        nargs="+",
        metavar="NAME",
        help=f"only these (also possible: {', '.join(optional)})",
    )
    parser.add_argument(
        "--force", action="store_true", help="download files that differ from the manifest again"
    )
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--retries", type=int, default=3, help="after a cut connection")


def run(arguments: argparse.Namespace) -> None:
    """Fetch, and say what came and what was there."""
    downloaded = fetch(
        arguments.dataset,
        out=arguments.out,
        base_url=arguments.base_url,
        files=arguments.files,
        force=arguments.force,
        timeout=arguments.timeout,
        retries=arguments.retries,
    )
    folder = Path(arguments.out) / arguments.dataset
    for name, entry in read_manifest(folder).items():
        how = "downloaded" if name in downloaded else "there already"
        print(f"{folder / name}: {how}, {entry['size']} bytes, SHA-256 {entry['sha256']}")


def _download(path: Path, url: str, sha256: str | None, downloader: ResumingDownloader) -> None:
    try:
        import pooch
        from requests.exceptions import RequestException
    except ImportError:
        raise InputError("downloading needs the pooch package: pip install '.[fetch]'") from None
    # pooch's own news repeat what the command prints.
    pooch.get_logger().setLevel("WARNING")
    # pooch leaves a file alone that is there, even one that is to be replaced: so not `path`.
    arrived = path.with_name(f".{path.name}.partial-arrived")
    try:
        arrived.unlink(missing_ok=True)
        pooch.retrieve(
            url,
            known_hash=f"sha256:{sha256}" if sha256 else None,
            fname=arrived.name,
            path=path.parent,
            downloader=downloader,
        )
        _refuse_other_than_parquet(arrived, f"{path}: {url}")
        os.replace(arrived, path)
    except InputError:
        raise
    except RequestException as error:
        kept = downloader.partial.stat().st_size if downloader.partial.is_file() else 0
        hint = f"; {kept} bytes are kept, the next run continues" if kept else ""
        raise InputError(f"{path}: {url} cannot be downloaded: {error}{hint}") from error
    except ValueError as error:  # pooch's, naming both hashes
        text = str(error).replace(arrived.name, path.name)
        raise InputError(f"{path}: {url}: {text}") from error
    finally:
        arrived.unlink(missing_ok=True)


def _refuse_other_than_parquet(path: Path, where: str) -> None:
    """A server's page that says "please log in" arrives as a file, too."""
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(-min(4, path.stat().st_size), os.SEEK_END)
        if (head, file.read(4)) != (b"PAR1", b"PAR1"):
            raise InputError(f"{where}: starts with {head!r}; expected a parquet file, b'PAR1'")


def _is_stale(path: Path, entry: dict[str, Any] | None) -> bool:
    """Whether the file is not as it was downloaded."""
    return entry is None or "changed_by" in entry or difference(path, entry) is not None


def _accept(path: Path, sha256: str | None, entry: dict[str, Any] | None) -> dict[str, Any]:
    """The manifest entry of a file that is there, and that is not to be written over."""
    if entry is None:
        # Put there by hand: known by its hash, or taken as it is.
        entry = file_entry(path, None)
        _refuse_other_than_parquet(path, str(path))
        expected = entry | ({"sha256": sha256} if sha256 else {})
    else:
        expected = entry
    problem = difference(path, expected)
    if problem:
        raise InputError(f"{problem}; --force downloads it again and writes over it")
    return entry
