"""What is around the steps: loading, evaluation, states, and a training that goes on."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.data import FEATURE_MAP, MAX_LEN, dataset, write_folders
from benchmarks.gpu.checks import Check
from benchmarks.gpu.made import LENGTHS, Size, batches_of, catalogue, model_of
from benchmarks.official import Batch
from model_zoo.core.data.item_table import load_item_table
from model_zoo.core.data.loader import HistoryLoader, make_loader
from model_zoo.core.prepare.demo import generate_demo
from model_zoo.core.training.state import load_state


class Listed:
    """A loader of batches that are there."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches, self._first = batches, 0
        self.num_samples = sum(len(batch["label"]) for batch in batches)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        first, self._first = self._first, 0
        return iter(self._batches[first:])

    def start_at(self, *, epoch: int, batch: int) -> None:
        self._first = batch


@contextmanager
def deterministic() -> Iterator[None]:
    """CUBLAS_WORKSPACE_CONFIG has to be set before the first product; the command does that."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def resume(folder: str, size: Size, device: torch.device, *, recorded: bool = False) -> list[Check]:
    """A training of two epochs, and one that begins again after its first."""
    columns = catalogue(size)
    batches = batches_of(size, size.checked, torch.device("cpu"), 3)

    def train(name: str, epochs: int, resumed: Any = None, **settings: Any) -> Any:
        root = str(Path(folder) / name)
        model = model_of(root, size, columns, device, model_id=name, **settings)
        Path(model.checkpoint).parent.mkdir(parents=True, exist_ok=True)
        model.keep_states({}, resumed)
        torch.manual_seed(7)
        model.fit(Listed(batches), epochs=epochs, validation_data=Listed(batches[:1]))
        return load_state(model.state_path, {})

    checks = []
    variants: dict[str, dict[str, Any]] = {"fp32": {}, "bf16": {"precision": "bf16"}}
    if recorded:
        variants = {"bf16, cuda_graph": {"precision": "bf16", "cuda_graph": True}}
    with deterministic():
        for name, settings in variants.items():
            whole = train(f"whole {name}", 2, **settings)
            half = train(f"half {name}", 1, **settings)
            rest = train(f"half {name}", 2, half, **settings)  # beside its best weights
            weights = whole["weights"]
            differing = sum(not torch.equal(weights[n], rest["weights"][n]) for n in weights)
            checks.append(Check(f"tensors that differ after a resume, {name}", differing, 0))
    return checks


def data_of(folder: str, size: Size) -> Path:
    """Files of the official form, written once."""
    path = Path(folder) / "data"
    if not path.exists():
        begun = Path(tempfile.mkdtemp(dir=folder))  # left behind if this part is ended
        generate_demo(
            begun,
            num_items=size.items,
            num_users=max(size.epoch // 4, 50),
            train_rows=size.epoch,
            valid_rows=max(size.epoch // 40, 50),
            test_rows=1,
            progress=False,
        )
        write_folders(begun, files=4)
        begun.rename(path)
    return path


def loader_of(
    path: Path, name: str, size: Size, device: torch.device, **settings: Any
) -> HistoryLoader:
    split = "valid" if name.startswith("valid") else "train"
    return make_loader(
        FEATURE_MAP,
        path / name,
        dataset=dataset(path, size.items),
        max_len=MAX_LEN,
        batch_size=size.rows,
        split=split,
        shuffle=split == "train",
        device=device,
        **settings,
    )


def loading(folder: str, size: Size, device: torch.device) -> list[Check]:
    """Batches for the device against those for the CPU: how many differ."""
    path, cpu, checks = data_of(folder, size), torch.device("cpu"), []
    for name, file, settings in (
        ("sent ahead", "train.parquet", {"data_on_device": False}),
        ("kept on the device", "train.parquet", {"data_on_device": True}),
        ("streamed and sent ahead", "ragged", {}),
    ):
        found = loader_of(path, file, size, device, **settings)
        expected = loader_of(path, file, size, cpu)
        differing = 0
        for one, other in zip(found, expected, strict=True):
            there = {n: t.device.type for n, t in one.items() if n != LENGTHS}
            same = all(torch.equal(one[n].cpu(), other[n]) for n in other)
            differing += not (same and set(there.values()) == {device.type})
        checks.append(Check(f"batches that differ, {name}", differing, 0))
    return checks


def epochs(
    folder: str, size: Size, device: torch.device, settings: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """An epoch with loading, evaluation, weights and state, after one for warming up."""
    path = data_of(folder, size)
    features = dataset(path, size.items).features(of_items=True)
    columns = load_item_table(path / "item_info.parquet", features).columns(None)
    measured = {}
    for name, resident in (("rows on the device", True), ("rows sent ahead", False)):
        train = loader_of(path, "train.parquet", size, device, data_on_device=resident)
        valid = loader_of(path, "valid.parquet", size, device, data_on_device=resident)
        root = str(Path(folder) / name)
        model = model_of(root, size, columns, device, model_id="epoch", **settings)
        Path(model.checkpoint).parent.mkdir(parents=True, exist_ok=True)
        model.keep_states({})
        seconds = {"epoch": 0.0, "evaluation": 0.0}

        def timed(name: str, run: Callable[..., None], seconds: dict[str, float] = seconds) -> Any:
            def call(*arguments: Any) -> None:
                _finish(device)
                start = time.perf_counter()
                run(*arguments)
                _finish(device)
                seconds[name] = time.perf_counter() - start

            return call

        # The evaluation is part of the epoch; to read the best weights at the end is not.
        model.train_epoch = timed("epoch", model.train_epoch)
        model.eval_step = timed("evaluation", model.eval_step)
        model.fit(train, epochs=2, validation_data=valid)
        total = seconds["epoch"]
        steps = total - seconds["evaluation"]
        measured[name] = {
            "seconds": total,
            "of steps": steps,
            "of evaluation, weights and state": seconds["evaluation"],
            "rows/s": train.num_samples / total,
            "rows/s of the steps": train.num_samples / steps,
        }
    return measured


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
