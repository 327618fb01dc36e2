"""Points of a space drawn by Optuna: at random, or by its tree-structured Parzen estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from model_zoo.core.commands.tuning.ranges import Range
from model_zoo.core.commands.tuning.space import Space
from model_zoo.core.commands.tuning.trial import Trial, digest
from model_zoo.core.errors import InputError

SEED = 2025
STUDY = "optuna"  # as Ray's OptunaSearch names it
TRIES_FOR_EACH = 50  # before it is taken that a space has no further points
Point = tuple[str | None, dict[str, Any]]


def require_extra(what: str) -> None:
    """Refuse what needs the extra ``tune``, where that is not installed.

    Args:
        what: The option, for the message.

    Raises:
        InputError: If Ray Tune or Optuna is not there.
    """
    try:
        import optuna
        import ray.tune  # noqa: F401
    except ImportError:
        raise InputError(f"{what} needs Ray Tune and Optuna: pip install '.[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def suggest(space: Space, draw: Any) -> Point:
    """The point that an Optuna trial draws: a model if there are several, then its settings."""
    models = list(space.varied)
    model = models[draw.suggest_categorical("model", range(len(models)))]
    settings = {}
    for key, values in space.varied[model].items():
        name = _name(model, key)
        if not isinstance(values, Range):
            # By number: a value may be a list, which Optuna has no kind for.
            settings[key] = values[draw.suggest_categorical(name, range(len(values)))]
        elif values.whole:
            settings[key] = draw.suggest_int(name, values.low, values.high, log=values.log)
        else:
            settings[key] = draw.suggest_float(name, values.low, values.high, log=values.log)
    return model, settings


def drawn_before(space: Space, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What :func:`suggest` drew for a point; ``None`` if the space no longer has it."""
    models = list(space.varied)
    model = settings.get("model") if None not in models else None
    if model not in models or set(settings) - {"model"} != set(space.varied[model]):
        return None
    drawn: dict[str, Any] = {"model": models.index(model)}
    for key, values in space.varied[model].items():
        value = settings[key]
        if isinstance(values, Range):
            if not values.low <= value <= values.high:
                return None
            drawn[_name(model, key)] = value
        else:
            same = [i for i, v in enumerate(values) if digest({"": v}) == digest({"": value})]
            if not same:
                return None
            drawn[_name(model, key)] = same[0]
    return drawn


def random_trials(space: Space, count: int) -> list[Trial]:
    """Different points, each with all its seeds; of a larger number, these are the first.

    Raises:
        InputError: With every mistake in any of them.
    """
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(SEED))
    points: dict[str, Point] = {}
    for _ in range(count * TRIES_FOR_EACH):
        model, settings = suggest(space, study.ask())
        points.setdefault(digest({"model": model, **settings}), (model, settings))
        if len(points) == count:
            break
    return space.checked(iter(points.values()))


def known_study(space: Space, values: Sequence[tuple[Mapping[str, Any], float]]) -> Any:
    """Optuna's storage with what a search has found so far, for Ray's ``OptunaSearch``.

    Args:
        space: The space.
        values: Settings of each finished point, and its score (more is better).
    """
    import optuna

    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name=STUDY, direction="maximize")
    for settings, value in values:
        made = frozen(space, settings, value)
        if made is not None:
            study.add_trial(made)
    return storage


def frozen(space: Space, settings: Mapping[str, Any], value: float) -> Any:
    """A finished trial as Optuna keeps it; ``None`` if the space no longer has its point."""
    import optuna

    drawn = drawn_before(space, settings)
    if drawn is None:
        return None
    made = _Distributions(drawn)
    suggest(space, made)
    return optuna.trial.create_trial(params=drawn, distributions=made.distributions, value=value)


class _Distributions:
    """In the place of an Optuna trial: gives what was drawn, and keeps from what."""

    def __init__(self, drawn: Mapping[str, Any]) -> None:
        self._drawn = drawn
        self.distributions: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[int]) -> Any:
        from optuna.distributions import CategoricalDistribution

        self.distributions[name] = CategoricalDistribution(tuple(choices))
        return self._drawn[name]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> Any:
        from optuna.distributions import IntDistribution

        self.distributions[name] = IntDistribution(low, high, log=log)
        return self._drawn[name]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> Any:
        from optuna.distributions import FloatDistribution

        self.distributions[name] = FloatDistribution(low, high, log=log)
        return self._drawn[name]


def _name(model: str | None, key: str) -> str:
    return key if model is None else f"{model}:{key}"
