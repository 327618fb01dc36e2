"""From the table of suites to the runs they consist of."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

from model_zoo.core.commands.config import Experiment, load_dataset, load_experiment
from model_zoo.core.commands.yaml_files import read_yaml
from model_zoo.core.data.spec import DatasetSpec, Spec
from model_zoo.core.errors import InputError

SUITES = Path(__file__).with_name("suites.yaml")
SEARCH_SEED = 2025
DEMO = "MicroLens_demo"
BEST_PEER = "best peer"
Phase = Literal["search", "seeds"]
Settings = Mapping[str, Any]


class Row(Spec):
    """A model or variant of a suite; ``suites.yaml`` explains the fields."""

    expid: str | None = None
    settings: dict[str, Any] = pydantic.Field({})
    without: list[Literal["ids", "tags", "vectors"]] = pydantic.Field([])
    baseline: Literal["popularity", "logistic_regression"] | None = None
    own: bool = False
    dropout: list[str] = pydantic.Field(["net_dropout"])
    extra_trials: list[dict[str, Any]] = pydantic.Field([])


class Suite(Spec):
    """A suite; ``suites.yaml`` explains the fields."""

    compare_with: str
    expid: str = ""
    settings: dict[str, Any] = pydantic.Field({})
    by_dataset: dict[str, dict[str, Any]] = pydantic.Field({})
    search: dict[str, list[dict[str, Any]]] = pydantic.Field({})
    rows: dict[str, Row]


@dataclass(frozen=True)
class Run:
    """One training, or one fit of a baseline.

    Attributes:
        suite: Its suite.
        dataset: Its data set.
        name: Its row.
        phase: Whether it is a trial of a search, or one of the seeds.
        seed: Its seed.
        expid: The experiment.
        settings: What differs from the experiment, as ``key=value`` texts, without the seed.
        baseline: Which baseline it is, if it is one.
    """

    suite: str
    dataset: str
    name: str
    phase: Phase
    seed: int
    expid: str
    settings: tuple[str, ...]
    baseline: str | None = None

    def experiment(self, config: str) -> Experiment:
        """Its checked settings.

        Raises:
            InputError: If one is wrong.
        """
        return load_experiment(config, self.expid, [] if self.baseline else self.settings)

    def key(self, config: str) -> str:
        """What tells it from all other runs; a changed setting makes another run of it."""
        params = [_params(config, self.expid), list(self.settings), self.baseline]
        text = json.dumps(params, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{self.suite}/{self.dataset}/{self.name}/{self.phase}/{self.seed}/{digest}"


@functools.cache
def _params(config: str, expid: str) -> dict[str, Any]:
    """The settings of an experiment that make a difference; to read them takes time."""
    params = load_experiment(config, expid).params
    return {k: v for k, v in params.items() if k not in ("seed", "model_root", "verbose")}


def load_suites(path: Path = SUITES) -> dict[str, Suite]:
    """The suites by name, with the settings of every run.

    Raises:
        InputError: If the table says what no suite has.
    """
    table = read_yaml(path)
    every = table.pop("every_run", {})
    suites = {}
    for name, entry in table.items():
        try:
            suite = Suite(**{**entry, "settings": {**every, **entry.get("settings", {})}})
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{path}: {name}: {place}: {first['msg']}") from None
        if suite.compare_with not in (BEST_PEER, *suite.rows):
            raise InputError(f"{path}: {name}: compare_with: no row '{suite.compare_with}'")
        suites[name] = suite
    return suites


class Plan:
    """The runs of one suite on one data set.

    Args:
        name: Name of the suite.
        suite: The suite.
        dataset: Name of the data set.
        config: Folder with the YAML files.
        rows: Names of the rows to run, all if empty.

    Raises:
        InputError: If the data set, or a row, is unknown.
    """

    def __init__(
        self, name: str, suite: Suite, dataset: str, config: str, rows: Sequence[str] = ()
    ) -> None:
        self.name, self.suite, self.dataset, self.config = name, suite, dataset, config
        self._spec = load_dataset(config, dataset)
        unknown = [row for row in rows if row not in suite.rows]
        if unknown:
            raise InputError(
                f"suite '{name}' has no row '{unknown[0]}'; known: {', '.join(suite.rows)}"
            )
        kinds = _features_by_kind(self._spec)
        self.rows = [
            row
            for row, entry in suite.rows.items()
            if (not rows or row in rows) and all(kinds[kind] for kind in entry.without)
        ]

    def trials(self, row: str) -> list[Run]:
        """The search of a row: the trials that all have, and its own.

        Raises:
            InputError: If the suite has no search for the data set.
        """
        if self.dataset not in self.suite.search:
            raise InputError(f"suite '{self.name}' has no search for data set '{self.dataset}'")
        points = self.suite.search[self.dataset]
        entry = self.suite.rows[row]
        if entry.baseline == "popularity":
            points = [{}]  # it has no settings
        elif entry.baseline == "logistic_regression":
            points = [{"C": 10.0 ** (i - 2)} for i in range(len(points))]
        else:
            points = [_spell_dropout(point, entry.dropout) for point in points]
            points += [{**points[0], **extra} for extra in entry.extra_trials]
        return [self._run(row, "search", SEARCH_SEED, point) for point in points]

    def seeds(
        self, row: str, seeds: Sequence[int], chosen: Sequence[str] | None = None
    ) -> list[Run]:
        """The runs of a row that are reported.

        Args:
            row: Its name.
            seeds: A run for each.
            chosen: The settings of the search's best trial; ``None`` takes the row's own.
        """
        runs = [self._run(row, "seeds", seed, {}) for seed in seeds]
        if chosen is None:
            return runs
        return [Run(**{**vars(run), "settings": tuple(chosen)}) for run in runs]

    def _run(self, row: str, phase: Phase, seed: int, point: Settings) -> Run:
        entry = self.suite.rows[row]
        data = "default" if self.dataset == DEMO else self.dataset
        settings: dict[str, Any] = dict(point)
        if entry.baseline is None:
            of_data = self.suite.by_dataset.get(self.dataset, {})
            settings = {**self.suite.settings, **of_data, **entry.settings, **point}
            if entry.without:
                settings["use_features"] = _features_but(self._spec, entry.without)
        return Run(
            suite=self.name,
            dataset=self.dataset,
            name=row,
            phase=phase,
            seed=seed,
            expid=(entry.expid or self.suite.expid).format(data=data),
            settings=tuple(f"{key}={_as_yaml(value)}" for key, value in settings.items()),
            baseline=entry.baseline,
        )


def _spell_dropout(point: Settings, names: Sequence[str]) -> dict[str, Any]:
    spelled = {key: value for key, value in point.items() if key != "dropout"}
    if "dropout" in point:
        spelled |= dict.fromkeys(names, point["dropout"])
    return spelled


def _features_by_kind(dataset: DatasetSpec) -> dict[str, list[str]]:
    features = dataset.features(of_items=True)
    return {
        "ids": [f.name for f in features if f.name == dataset.item_col],
        "tags": [f.name for f in features if f.type == "sequence"],
        "vectors": [f.name for f in features if f.type == "embedding"],
    }


def _features_but(dataset: DatasetSpec, kinds: Sequence[str]) -> list[str]:
    gone = {name for kind in kinds for name in _features_by_kind(dataset)[kind]}
    used = {f.name for of_items in (False, True) for f in dataset.features(of_items=of_items)}
    return [column.name for column in dataset.feature_cols if column.name in used - gone]


def _as_yaml(value: Any) -> str:
    """A value as ``--set`` reads it, in one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


@functools.cache
def suite_names() -> list[str]:
    """Names of the shipped suites."""
    return list(load_suites())
