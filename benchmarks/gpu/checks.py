"""Whether a device computes what float64 on the CPU does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.gpu.made import Size, batches_of, catalogue, model_of, placed
from benchmarks.official import Batch, draw_batch
from model_zoo.core.training.captured import RECORDERS, WARM_UP
from tests.oracles import PlainQIN

# How far probabilities (root mean square), losses and gradients (both relative to their size) may
# be from float64.
ALLOWED = {"fp32": (1e-5, 1e-4, 1e-3), "bf16": (3e-2, 2e-2, 2e-1)}
# Whose steps are checked, with what they need to use all that they have.
MODELS: dict[str, dict[str, Any]] = {"QIN": {}, "QIN+": {"contrast": 0.5}}


class Check(NamedTuple):
    """What was found and what is allowed at most."""

    name: str
    found: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.found <= self.allowed


class Exact(NamedTuple):
    """The plain formulas in float64."""

    probability: Tensor
    loss: Tensor
    gradient: dict[str, Tensor]


def exact(model: Any, padded: Batch) -> Exact:
    """With the model's weights; its statistics stay as they are."""
    plain = PlainQIN(copy.deepcopy(model).cpu().double()).train()
    probability = torch.sigmoid(plain(padded))
    label = padded["label"].double().unsqueeze(1)
    loss = nn.functional.binary_cross_entropy(probability, label)
    loss.backward()
    named = plain.model.named_parameters()
    gradient = {n: p.grad for n, p in named if p.grad is not None}
    return Exact(probability.detach(), loss.detach(), gradient)


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all gradients together, relative to their length."""
    apart = sum(float((found[n] - g).square().sum()) for n, g in expected.items())
    length = sum(float(g.square().sum()) for g in expected.values())
    return (apart / length) ** 0.5


def formulas(folder: str, size: Size, device: torch.device) -> list[Check]:
    """Probabilities, loss and gradients of a batch in training, without dropout."""
    torch.manual_seed(1)
    padded, packed = draw_batch(size.checked, "challenge", size.items)
    batches = {"packed": packed, "padded": padded}
    columns, checks = catalogue(size), []
    expected: Exact | None = None
    for precision in ("fp32", "bf16"):
        for update in ("dense", "lazy"):
            settings = {"precision": precision, "embedding_update": update}
            model = model_of(folder, size, columns, device, net_dropout=0.0, **settings)
            _visible(model)
            if expected is None:
                expected = exact(model, padded)
            for history, batch in batches.items():
                given = placed(batch, device)
                output = model(given)
                loss = model.add_loss(output, model.get_labels(given))
                loss.backward()
                gradient = {
                    name: p.grad.to_dense().double().cpu()
                    for name, p in model.named_parameters()
                    if p.grad is not None
                }
                model.zero_grad()
                probability = output["y_pred"].detach().double().cpu()
                found = (
                    float((probability - expected.probability).square().mean().sqrt()),
                    abs(float(loss.detach()) / float(expected.loss) - 1),
                    distance(gradient, expected.gradient),
                )
                names = ("probabilities", "loss", "gradients")
                checks += [
                    Check(f"{name}, {precision}, {history}, {update}", value, allowed)
                    for name, value, allowed in zip(names, found, ALLOWED[precision], strict=True)
                ]
    return checks


def _visible(model: Any) -> None:
    """Embeddings of a trained model's size: FuxiCTR's 1e-4 would hide what they do."""
    torch.manual_seed(2)
    for module in model.embedding_layer.modules():
        if isinstance(module, nn.Embedding):
            weight = torch.randn(module.weight.shape) * 0.05
            weight[0] = 0
            module.weight.data.copy_(weight)


def steps(
    folder: str, size: Size, device: torch.device, *, model: str = "QIN", recorded: bool = False
) -> list[Check]:
    """Losses of optimizer steps, plain or recorded, against plain ones on the CPU in float32.

    With item vectors of length one: drawn ones, of length 11, saturate untrained logits, and then
    float32 is up to 13 % from float64. So it is 0.07 %, most of it the penalty of the tables.
    """
    columns, cpu = catalogue(size), torch.device("cpu")
    columns["item_emb_d128"] = nn.functional.normalize(columns["item_emb_d128"])
    count = WARM_UP + 3
    drawn = batches_of(size, size.checked, cpu, count)
    common = {"model": model, "net_dropout": 0.0, **MODELS[model]}

    def losses(where: torch.device, **settings: Any) -> tuple[Tensor, Any]:
        trained = model_of(folder, size, columns, where, **common, **settings)
        _visible(trained)
        found = [trained.train_step(placed(batch, where)).item() for batch in drawn]
        return torch.stack(found).double().cpu(), trained

    checks = []
    for update in ("dense",) if recorded else ("dense", "lazy"):
        name = "recorded" if recorded else update
        expected, _ = losses(cpu, embedding_update=update)
        found, trained = losses(device, embedding_update=update, cuda_graph=recorded)
        apart = float((found / expected - 1).abs().max())
        checks.append(Check(f"losses of {count} steps, {model}, {name}", apart, 2e-3))
        if recorded and device.type in RECORDERS:
            missing = float(trained._captured.recordings == 0)
            checks.append(Check(f"recordings that are missing, {model}", missing, 0.0))
    return checks


def waits(
    folder: str, size: Size, device: torch.device, *, model: str = "QIN", recorded: bool = False
) -> list[Check]:
    """A step under torch's refusal to synchronise; 1 if it does."""
    settings = {"model": model, "precision": "bf16", "cuda_graph": recorded, **MODELS[model]}
    trained = model_of(folder, size, catalogue(size), device, **settings)
    (batch,) = batches_of(size, size.rows, device, 1)
    for _ in range(WARM_UP + 1):  # a recording synchronises, once
        trained.train_step(batch)
    waited = 0.0
    try:
        with refusing_to_wait(device):
            trained.train_step(batch)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        waited = 1.0
    return [Check(f"a step that waits, {model}{', recorded' * recorded}", waited, 0.0)]


@contextmanager
def refusing_to_wait(device: torch.device) -> Any:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


CHECKS: dict[str, Callable[[str, Size, torch.device], list[Check]]] = {
    "formulas": formulas,
    **{
        f"{kind.__name__}, {model}{', recorded' * recorded}": partial(
            kind, model=model, recorded=recorded
        )
        for kind in (steps, waits)
        for recorded in (False, True)
        for model in MODELS
    },
}
