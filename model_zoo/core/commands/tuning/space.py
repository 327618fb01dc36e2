"""The trials that a tuner file describes, all checked before one of them runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_zoo import get_model
from model_zoo.core.commands.config import constructor_arguments
from model_zoo.core.commands.tuning.ranges import Range
from model_zoo.core.commands.tuning.trial import Trial, make_trial
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError

Values = Sequence[Any] | Range


@dataclass(frozen=True)
class Space:
    """A checked tuner file.

    Attributes:
        file: The tuner file.
        base_expid: Name that all trials' ids begin with.
        base: Settings of the base experiment.
        datasets: Settings of each data set that a trial may have, by name.
        dataset_id: The one that trials have unless the space says otherwise.
        varied: For each model (``None`` where the space names none) its settings' values.
        seeds: Repetitions of each setting, if the space has any.
    """

    file: Path
    base_expid: str
    base: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]]
    dataset_id: str
    varied: Mapping[str | None, Mapping[str, Values]]
    seeds: Sequence[Any] | None

    @property
    def ranges(self) -> list[str]:
        """Settings that a grid cannot enumerate."""
        found = [k for of in self.varied.values() for k, v in of.items() if isinstance(v, Range)]
        return list(dict.fromkeys(found))

    @property
    def epochs(self) -> list[float]:
        """The shortest and the longest training that a trial may be."""
        found: list[float] = []
        for of in self.varied.values():
            values = of.get("epochs", [self.base.get("epochs", 1)])
            found += [values.low, values.high] if isinstance(values, Range) else values
        return [min(found), max(found)]

    @property
    def keys(self) -> list[str]:
        """Settings that trials differ in, the seed apart."""
        several = ["model"] if len(self.varied) > 1 else []
        for of in self.varied.values():
            several += [k for k, v in of.items() if isinstance(v, Range) or len(v) > 1]
        return list(dict.fromkeys(several))

    def trials(self, model: str | None, settings: Mapping[str, Any]) -> list[Trial]:
        """The trials of one point of the space, one for each seed.

        Raises:
            InputError: If its settings are wrong.
        """
        return [self._trial(model, settings, seed) for seed in self.seeds or [None]]

    def grid(self) -> list[Trial]:
        """All combinations, in the file's order.

        Raises:
            InputError: With every mistake in any of them, or if two are the same.
        """
        if self.ranges:
            raise InputError(
                f"{self.file}: tuner_space: {', '.join(self.ranges)}: a grid takes lists of "
                "values; a range needs --sampler random or --sampler tpe"
            )
        return self.checked(self._points())

    def checked(self, points: Iterator[tuple[str | None, dict[str, Any]]]) -> list[Trial]:
        """The trials of several points.

        Raises:
            InputError: With every mistake in any of them, or if two are the same.
        """
        trials: dict[str, Trial] = {}
        problems: dict[str, None] = {}
        for model, settings in points:
            for seed in self.seeds or [None]:
                try:
                    trial = self._trial(model, settings, seed)
                except InputError as error:
                    problems |= dict.fromkeys(error.problems)
                    continue
                if trial.expid in trials:
                    problems[
                        f"{self.file}: tuner_space: {trial.text()}: the space has this trial twice"
                    ] = None
                trials[trial.expid] = trial
        monitors = {str((t.experiment.run.monitor, t.monitor_mode)): None for t in trials.values()}
        if len(monitors) > 1:
            problems[
                f"{self.file}: tuner_space: trials are ranked by one monitor, found "
                f"{' and '.join(monitors)}"
            ] = None
        if problems:
            raise InputError(list(problems))
        return list(trials.values())

    def of_data(self) -> list[Trial]:
        """A trial for each combination of data settings, all else being the first value."""
        first = {
            model: {
                key: [values.low] if isinstance(values, Range) else values[:1]
                for key, values in of.items()
                if key not in DatasetSpec.model_fields
            }
            | {key: values for key, values in of.items() if key in DatasetSpec.model_fields}
            for model, of in self.varied.items()
        }
        return replace(self, varied=first, seeds=None).grid()

    def _points(self) -> Iterator[tuple[str | None, dict[str, Any]]]:
        for model, of in self.varied.items():
            lists = [values for values in of.values() if not isinstance(values, Range)]
            for point in itertools.product(*lists):
                yield model, dict(zip(of, point, strict=True))

    def _trial(self, model: str | None, settings: Mapping[str, Any], seed: Any) -> Trial:
        base = _for_model(self.base, model)
        dataset_id = str(settings.get("dataset_id", self.dataset_id))
        named = settings if model is None else {"model": model, **settings}
        repeated = self.seeds is not None
        return make_trial(
            self.file, self.base_expid, base, self.datasets[dataset_id], named, seed, repeated
        )


def _for_model(base: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    """The base's settings without those that are another model's alone."""
    if model is None or model == base.get("model"):
        return dict(base)
    of_base = constructor_arguments(get_model(str(base.get("model"))))
    takes = constructor_arguments(get_model(model))
    return {key: value for key, value in base.items() if key not in of_base or key in takes}
