"""What the tests of the suites share."""

from __future__ import annotations

import functools
from typing import Any

import yaml

from benchmarks.suite.plan import Plan, load_suites
from tests.conftest import ROOT

CONFIG = str(ROOT / "config")
EXPERIMENTS = yaml.safe_load((ROOT / "config" / "model_config.yaml").read_text())
SUITES = load_suites()


@functools.cache
def plan(suite: str, dataset: str, *rows: str) -> Plan:
    """A shipped suite on a data set."""
    return Plan(suite, SUITES[suite], dataset, CONFIG, rows)


def line(name: str, seed: int, auc: float, **other: Any) -> dict[str, Any]:
    phase = other.get("phase", "seeds")
    values = {
        "key": f"made/data/{name}/{phase}/{seed}/{other.get('digest', 'x')}",
        "dataset": "data",
        "name": name,
        "phase": phase,
        "seed": seed,
        "settings": [],
        "status": "finished",
        "command": f"python run_expid.py --expid {name}",
        "date": "2026-11-25T10:00:00+00:00",
        **dict.fromkeys(("python", "torch", "fuxictr", "cpu"), "v"),
        "metrics": {"AUC": auc, "logloss": 1 - auc},
    }
    return {**values, **other}
