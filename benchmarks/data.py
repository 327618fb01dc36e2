"""Loading data: memory, time to the first batch and rows per second against a plain loader.

    python -m benchmarks.data --rows 3600000 --items 91718

The plain loader is what a first version would be: the whole file as a pandas frame with a list
object in each row, turned into one float64 matrix, and the features of a batch's items gathered
from a data frame, row by row of it, at every batch. *Decoded only* is what Arrow takes for the
padded lists without anything else: no loader that reads them with it can be faster. Each
measurement is a process of its own, so that peak memory is its alone; the resting memory of the
imports is subtracted.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq

from model_zoo.core.data.block import ROWS_PER_READ
from model_zoo.core.data.item_table import load_item_table
from model_zoo.core.data.loader import READERS, make_loader
from model_zoo.core.data.spec import DatasetSpec, FeatureSpec, LabelSpec
from model_zoo.core.prepare.demo import NUM_LEVELS, NUM_TAGS, generate_demo

BATCH_SIZE = 8192
MAX_LEN = 64
FEATURE_MAP = SimpleNamespace(labels=["label"], group_id=None)


def peak_mib() -> float:
    """Peak memory of this program (ru_maxrss would start with that of its parent)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def dataset(folder: Path, items: int) -> DatasetSpec:
    token, item = {"type": "categorical", "dtype": "int"}, {"source": "item"}
    columns = [
        {"name": "user_id", "type": "meta", "dtype": "int"},
        {"name": "item_seq", "type": "meta", "dtype": "int"},
        {"name": "likes_level", **token, "vocab_size": NUM_LEVELS},
        {"name": "views_level", **token, "vocab_size": NUM_LEVELS},
        {"name": "item_id", **token, **item, "vocab_size": items},
        {"name": "item_tags", "type": "sequence", "dtype": "int", **item, "vocab_size": NUM_TAGS}
        | {"max_len": 5},
        {"name": "item_emb_d128", "type": "embedding", "dtype": "float", **item}
        | {"pretrain_dim": 128},
    ]
    return DatasetSpec(
        dataset_id="benchmark",
        data_root=str(folder),
        data_format="parquet",
        train_data=str(folder / "train.parquet"),
        valid_data=str(folder / "valid.parquet"),
        item_info=str(folder / "item_info.parquet"),
        feature_cols=[FeatureSpec(**column) for column in columns],
        label_col=LabelSpec(name="label"),
    )


def plain_batches(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the plain loader, in a random order."""
    frame = pd.read_parquet(folder / "train.parquet")
    names = ["item_id", "likes_level", "views_level", "label"]
    matrix = np.column_stack([np.stack(frame["item_seq"].tolist()), frame[names]])
    matrix = matrix.astype(np.float64)
    items = pd.read_parquet(folder / "item_info.parquet")
    order = np.random.default_rng(0).permutation(len(matrix))
    for start in range(0, len(order), BATCH_SIZE):
        rows = matrix[order[start : start + BATCH_SIZE]]
        sequence, columns = rows[:, : -len(names)], rows[:, -len(names) :]
        ids = np.concatenate([sequence[:, -MAX_LEN:], columns[:, :1]], axis=1).astype(np.int64)
        gathered = items.iloc[ids.reshape(-1)]
        yield {
            "columns": columns,
            "item_tags": np.stack(gathered["item_tags"].tolist()),
            "item_emb_d128": np.stack(gathered["item_emb_d128"].tolist()),
        }


def bare_lists(folder: Path) -> Iterator[dict[str, Sized]]:
    """The padded lists as Arrow decodes them, in as many threads as a loader, and nothing else."""

    def read(file: Path, group: int) -> int:
        with pq.ParquetFile(file, pre_buffer=False) as source:
            pieces = source.iter_batches(
                ROWS_PER_READ, row_groups=[group], columns=["item_seq"], use_threads=False
            )
            return sum(len(piece) for piece in pieces)

    files = sorted((folder / "padded").iterdir())
    groups = [(f, g) for f in files for g in range(pq.read_metadata(f).num_row_groups)]
    with ThreadPoolExecutor(READERS) as pool:
        for rows in pool.map(read, *zip(*groups, strict=True)):
            yield {"rows": range(rows)}


def measure(kind: str, folder: Path, items: int, seconds: float) -> dict[str, float]:
    """Peak memory above the imports', seconds to the first batch, rows per second after it."""
    before, start = peak_mib(), time.perf_counter()
    bare = {"plain": plain_batches, "lists": bare_lists}
    if kind in bare:
        batches = bare[kind](folder)
    else:
        spec = dataset(folder, items)
        path = folder / ("train.parquet" if kind == "memory" else kind)
        settings = {"split": "train", "batch_size": BATCH_SIZE, "shuffle": True}
        load_item_table(spec.item_info, spec.features(of_items=True))
        loader = make_loader(FEATURE_MAP, path, dataset=spec, max_len=MAX_LEN, **settings)
        batches = iter(loader)
    next(batches)
    first = time.perf_counter() - start
    # A further epoch of ours; as many batches of the plain one as there is time for.
    batches = batches if kind in bare else iter(loader)
    started, cpu, rows = time.perf_counter(), time.process_time(), 0
    for batch in batches:
        rows += len(next(iter(batch.values())))
        if kind == "plain" and time.perf_counter() - started > seconds:
            break
    rate = rows / (time.perf_counter() - started)
    cpu = time.process_time() - cpu  # of all threads; other work on the machine is not in it
    return {
        "peak_mib": peak_mib() - before,
        "first_batch_s": first,
        "rows_per_s": rate,
        "rows_per_cpu_s": rows / cpu,
    }


def in_process(kind: str, folder: Path, items: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data", "--measure", kind]
    command += ["--folder", str(folder), "--items", str(items), "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def write_folders(folder: Path, files: int = 8) -> None:
    """The train file as folders of files: padded lists as they are, and without padding."""
    frame = pl.scan_parquet(folder / "train.parquet")
    rows = pq.read_metadata(folder / "train.parquet").num_rows
    real = pl.element().filter(pl.element() != 0)
    for name, history in {
        "padded": pl.col("item_seq"),
        "ragged": pl.col("item_seq").list.eval(real),
    }.items():
        (folder / name).mkdir(exist_ok=True)
        size = -(-rows // files)
        for i in range(files):
            part = frame.slice(i * size, size).with_columns(history)
            part.sink_parquet(folder / name / f"{i}.parquet", row_group_size=50_000)


def row(name: str, result: dict[str, float]) -> str:
    return (
        f"{name:<28}{result['peak_mib']:>10,.0f} MiB {result['first_batch_s']:>8.2f} s "
        f"{result['rows_per_s']:>12,.0f} rows/s {result['rows_per_cpu_s']:>12,.0f} rows/CPU s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=3_600_000)
    parser.add_argument("--items", type=int, default=91_718)
    parser.add_argument("--seconds", type=float, default=30, help="of the plain loader's batches")
    parser.add_argument("--folder", type=Path, help="where the data goes (default: a temporary)")
    parser.add_argument("--measure", choices=["plain", "memory", "padded", "ragged", "lists"])
    arguments = parser.parse_args()
    if arguments.measure:
        result = measure(arguments.measure, arguments.folder, arguments.items, arguments.seconds)
        print(json.dumps(result))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp())
    sizes = {"1x": arguments.rows // 4, "4x": arguments.rows}
    try:
        for name, rows in sizes.items():
            generate_demo(
                folder / name,
                num_items=arguments.items,
                num_users=rows // 4,
                train_rows=rows,
            )
            write_folders(folder / name)
        kinds = {
            "plain": ("plain", "4x"),
            "in memory": ("memory", "4x"),
            "streaming padded": ("padded", "4x"),
            "streaming padded, rows/4": ("padded", "1x"),
            "padded lists, decoded only": ("lists", "4x"),
            "streaming ragged": ("ragged", "4x"),
            "streaming ragged, rows/4": ("ragged", "1x"),
        }
        run = {
            name: in_process(kind, folder / size, arguments.items, arguments.seconds)
            for name, (kind, size) in kinds.items()
        }
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)
    print(f"{arguments.rows:,} rows, {arguments.items:,} items, batches of {BATCH_SIZE}")
    print(f"{'':<28}{'peak memory':>14} {'1st batch':>10} {'rate':>12}")
    for name, result in run.items():
        print(row(name, result))
    plain, ours = run["plain"], run["in memory"]
    print(
        f"in memory against plain: memory / {plain['peak_mib'] / ours['peak_mib']:.1f}, "
        f"first batch / {plain['first_batch_s'] / ours['first_batch_s']:.1f}, "
        f"rate x {ours['rows_per_s'] / plain['rows_per_s']:.0f}"
    )
    share = run["padded lists, decoded only"]["rows_per_s"] / ours["rows_per_s"]
    print(f"Arrow alone decodes padded lists at {share:.0%} of the rate of in memory")
    for kind in ("streaming padded", "streaming ragged"):
        at_1x = run[f"{kind}, rows/4"]["peak_mib"]
        print(
            f"{kind}: rate {run[kind]['rows_per_s'] / ours['rows_per_s']:.0%} of in memory; "
            f"memory at 4x the rows {run[kind]['peak_mib'] / at_1x - 1:+.1%}"
        )


if __name__ == "__main__":
    main()
