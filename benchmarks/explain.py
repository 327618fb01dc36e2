"""Why QIN learns slowly on small data: its parts through the first epoch, and with parts replaced.

    OMP_NUM_THREADS=1 python -m benchmarks.explain --data data/MicroLens_50k_x1

Trains each variant for an epoch with the package's own step and measures losses, gradients,
attention weights and the scale of each layer as it goes. ``model_zoo/QIN/README.md`` has the
findings. What was measured is kept in ``--results``, a line of JSON for each variant; those that
are there are not run again. The picture needs ``QIN``, the others appear as far as they are there.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import MLP_Block
from fuxictr.pytorch.torch_utils import seed_everything
from torch import Tensor, nn

from benchmarks.probes import Gradients, Scales, attention_figures
from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.experiment import build_feature_map, build_model, prepare_dataset
from model_zoo.core.data.loader import make_loader
from model_zoo.core.files import write_aside
from model_zoo.core.memory import keep_freed_memory
from model_zoo.QINPlus.layers import GatedTargetAttention

PROBED = (0, 10, 50, 100, 199)  # steps whose batch is looked at closely
EVALUATED = (50, 100, 150, 200)  # valid AUC after so many steps


# --- variants ---------------------------------------------------------------------------------


def initialise(module: nn.Module) -> None:
    """As FuxiCTR initialises a model."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def tie(model: Any) -> None:
    """W_k starts equal to W_q; then each learns on its own."""
    model.attention.W_k.weight.data.copy_(model.attention.W_q.weight)


def forget_the_start(model: Any) -> None:
    """Adam begins anew after 20 steps: the large gradients of the start are forgotten."""
    steps = itertools.count(1)

    def clear(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if next(steps) == 20:
            optimizer.state.clear()

    model.optimizer.register_step_post_hook(clear)


def normalise_before(model: Any) -> None:
    """LayerNorm on each quadratic layer's input in place of BatchNorm on its output."""
    for i, layer in enumerate(model.qnn.layers):
        model.qnn.layers[i] = nn.Sequential(nn.LayerNorm(layer.dim), layer)
        model.qnn.norms[i] = nn.Identity()


def use_mlp(model: Any) -> None:
    """An MLP in place of the quadratic network."""
    settings = {"hidden_units": [512, 256], "hidden_activations": "ReLU", "output_dim": 1}
    model.qnn = nn.Sequential()
    model.qnn.add_module("mlp", MLP_Block(model.row_dim + 2 * model.item_dim, **settings))
    initialise(model.qnn)


def use_gate(model: Any) -> None:
    """QIN+'s gate in place of the bilinear score: no residual on t either."""
    model.attention = GatedTargetAttention(model.item_dim)
    initialise(model.attention)


def use_gate_and_mlp(model: Any) -> None:
    use_gate(model)
    use_mlp(model)


VARIANTS: dict[str, tuple[str, tuple[str, ...], Callable[[Any], None]]] = {
    "QIN": ("QIN", (), lambda model: None),
    "one row": ("QIN", ("num_row=1",), lambda model: None),
    "tied": ("QIN", (), tie),
    "LayerNorm before": ("QIN", (), normalise_before),
    "MLP": ("QIN", (), use_mlp),
    "start forgotten": ("QIN", (), forget_the_start),
    "gate": ("QIN", (), use_gate),
    "gate, MLP": ("QIN", (), use_gate_and_mlp),
    "QIN+": ("QIN_plus", (), lambda model: None),
}


# --- measurements -----------------------------------------------------------------------------


def measure(name: str, config: Path, data: Path, steps: int) -> dict[str, Any]:
    """Train one variant for so many steps."""
    prefix, overrides, change = VARIANTS[name]
    sets = [f"{split}_data={data / split}.parquet" for split in ("train", "valid", "test")]
    sets.append(f"item_info={data / 'item_info.parquet'}")
    with tempfile.TemporaryDirectory() as folder, keep_freed_memory():
        sets += [f"model_root={folder}", "verbose=0", *overrides]
        experiment = load_experiment(config, f"{prefix}_MicroLens_50k_x1", sets)
        experiment, _ = prepare_dataset(experiment, splits=("train", "valid"))
        params = experiment.params
        seed_everything(params["seed"])
        feature_map = build_feature_map(params)
        loaders = {"dataset": experiment.dataset, "data_loader": make_loader, "share": (0, 1)}
        loaders["device"] = torch.device("cpu")
        train, valid = RankDataLoader(feature_map, stage="train", **params, **loaders)
        model = build_model(experiment, feature_map, gpu=-1)
        change(model)
        torch.manual_seed(params["seed"])
        model._max_gradient_norm = params["max_gradient_norm"]
        model._steps_per_epoch = len(train)
        gradients = Gradients(model)
        found: dict[str, Any] = {"variant": name, "loss": [], "auc": {}, "probes": {}}
        cross_entropy = model.add_loss

        def noted_loss(*arguments: Any) -> Tensor:
            loss = cross_entropy(*arguments)  # without the L2 penalty, which differs by variant
            found["loss"].append(float(loss.detach()))
            return loss

        model.add_loss = noted_loss
        model.train()
        for step, batch in enumerate(train):
            if step == steps:
                break
            model._batch_index, model._total_steps = step, step + 1
            if step in PROBED:
                attention, scales = attention_figures(model, batch), Scales(model)
                model.train_step(batch)
                scales.close()
                found["probes"][str(step)] = attention | scales.found
            else:
                model.train_step(batch)
            if step + 1 in EVALUATED:
                found["auc"][str(step + 1)] = model.evaluate(valid)["AUC"]
                model.train()
        found["gradients"] = gradients.norms
        found["steps"] = gradients.steps()
    return found


# --- picture ----------------------------------------------------------------------------------


def smooth(values: list[float], width: int = 10) -> list[float]:
    return [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]


def draw(runs: Mapping[str, Any], path: Path) -> None:
    """Loss and AUC of every variant; scale, typical size and gradients of QIN's layers."""
    import matplotlib
    from matplotlib.figure import Figure

    # The same picture from the same numbers, with letters as letters.
    matplotlib.rcParams |= {"svg.hashsalt": path.name, "svg.fonttype": "none"}
    matplotlib.rcParams["font.sans-serif"] = ["DejaVu Sans"]
    figure = Figure(figsize=(9.5, 6.4), layout="constrained")
    axes = figure.subplots(2, 2)
    for name, run in runs.items():
        style = {"linewidth": 2.2 if name in ("QIN", "QIN+") else 1.2}
        losses = smooth(run["loss"], 20)
        axes[0, 0].plot(range(20, 20 + len(losses))[::4], losses[::4], label=name, **style)
        at = [int(step) for step in run["auc"]]
        axes[0, 1].plot(at, list(run["auc"].values()), marker=".", label=name, **style)
    axes[0, 0].set(title="training loss, mean of 20 steps", ylim=(0.46, 0.75))
    axes[0, 1].set(title="valid AUC")
    axes[0, 1].legend(fontsize=7, ncols=2, loc="lower right")
    for name, line in (("QIN", "-"), ("LayerNorm before", "--")):
        probes = runs[name]["probes"] if name in runs else {}
        at = [int(step) for step in probes]
        for layer in range(4):
            sizes = [probe["z"][layer] for probe in probes.values()]
            label = f"layer {layer + 1}" if name == "QIN" else None
            axes[1, 0].plot(at, sizes, line, marker=".", color=f"C{layer}", label=label)
    axes[1, 0].set(title="rms of z: QIN, dashed LayerNorm before", yscale="log")
    axes[1, 0].legend(fontsize=8, ncols=2, loc="lower right")
    for name, line in (("QIN", "-"), ("MLP", "--")):
        gradients = runs[name]["gradients"] if name in runs else {}
        for i, part in enumerate(("item_id", "W_q, W_k", "layer 1", "layer 4")):
            if part in gradients:
                norms = smooth(gradients[part], 5)
                label = part if name == "QIN" else None
                at = range(5, 5 + len(norms))[::4]
                axes[1, 1].plot(at, norms[::4], line, color=f"C{i}", label=label, linewidth=1.2)
    axes[1, 1].set(title="gradient norm, mean of 5 steps: QIN, dashed MLP", yscale="log")
    axes[1, 1].legend(fontsize=8, ncols=2)
    for panel in axes.flat:
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
        panel.locator_params(axis="x", nbins=5)
        panel.minorticks_off()
    written = io.StringIO()
    figure.savefig(written, format="svg", facecolor="white", metadata={"Date": None})
    with write_aside(path) as partial:  # a tenth of a point is as fine as an eye sees
        picture = re.sub(r"(\d+\.\d)\d{3,}", r"\1", written.getvalue())
        picture = re.sub(r"\n +|\n(?=[LC] )| transform=\"rotate\(-0 [^\"]*\"", " ", picture)
        Path(partial).write_text(picture, encoding="utf-8")


def last(series: Mapping[str, list[float]], steps: int = 20) -> dict[str, float]:
    return {name: sum(values[-steps:]) / len(values[-steps:]) for name, values in series.items()}


def text(figures: Mapping[str, Any]) -> str:
    """``name 1.23`` or ``name 1.2 3.4`` of each figure."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in figures.items()}
    return ", ".join(f"{name} {' '.join(f'{v:.3g}' for v in vs)}" for name, vs in lists.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("config"))
    parser.add_argument("--data", type=Path, default=Path("data/MicroLens_50k_x1"))
    parser.add_argument("--steps", type=int, default=200, help="of each variant; 200 are an epoch")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--results", type=Path, default=Path("checkpoints/explain.jsonl"))
    parser.add_argument("--picture", type=Path, default=Path("model_zoo/QIN/learning.svg"))
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.touch()
    lines = arguments.results.read_text(encoding="utf-8").splitlines()
    runs = {run["variant"]: run for run in map(json.loads, lines)}
    for name in arguments.variants:
        if name not in runs:
            runs[name] = measure(name, arguments.config, arguments.data, arguments.steps)
            with open(arguments.results, "a", encoding="utf-8") as file:
                file.write(json.dumps(runs[name]) + "\n")
    for name, run in runs.items():
        print(f"\n{name}: valid AUC {run['auc']}")
        for step, probe in run["probes"].items():
            print(f"  step {step}: {text(probe)}")
        print(f"  gradient norm, last 20 steps: {text(last(run['gradients']))}")
        print(f"  Adam's step / learning rate: {text(run['steps'])}")
    if "QIN" in runs:
        draw(runs, arguments.picture)


if __name__ == "__main__":
    main()
