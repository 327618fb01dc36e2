"""Points that Optuna draws one by one, where the last ones were good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_zoo.core.commands.tuning.pruning import score
from model_zoo.core.commands.tuning.records import Record
from model_zoo.core.commands.tuning.sampling import (
    SEED,
    STUDY,
    TRIES_FOR_EACH,
    frozen,
    known_study,
    suggest,
)
from model_zoo.core.commands.tuning.space import Space
from model_zoo.core.commands.tuning.trial import Trial
from model_zoo.core.errors import InputError


class Points:
    """The search of Optuna's tree-structured Parzen estimator.

    Args:
        space: The space.
        count: How many points to draw.
        known: Trials that ended before, of which it learns.
        begun: Trials that are to run beside those of its points.
    """

    def __init__(
        self,
        space: Space,
        count: int,
        known: Sequence[tuple[Trial, Record]],
        begun: Sequence[Trial],
    ) -> None:
        import optuna

        self._space, self._left = space, count
        self._repeated = len(space.seeds or [None])
        self._scores: dict[str, dict[str, float]] = {}
        self._taken = {trial.group for trial in begun}
        self._asked: dict[str, Any] = {}
        self._study = optuna.load_study(
            study_name=STUDY,
            storage=known_study(space, []),
            # After a restart, other points than those that the first start drew.
            sampler=optuna.samplers.TPESampler(seed=SEED + len(known)),
        )
        for trial, record in known:
            self.ended(trial, record)

    def draw(self) -> list[Trial]:
        """The trials of a point that was not drawn before, one for each seed.

        Returns:
            No trials if there are enough points, or no other is found.
        """
        for _ in range(TRIES_FOR_EACH if self._left else 0):
            asked = self._study.ask()
            try:
                trials = self._space.trials(*suggest(self._space, asked))
            except InputError as error:
                print(f"not trained: {'; '.join(error.problems)}", flush=True)
                self._study.tell(asked, state=_failed())
                continue
            group = trials[0].group
            if group in self._taken:
                self._study.tell(asked, state=_failed())
                continue
            self._asked[group] = asked
            self._taken.add(group)
            self._left -= 1
            return trials
        return []

    def ended(self, trial: Trial, record: Record) -> None:
        """Learn from a trial, once all repetitions of its point have ended."""
        self._taken.add(trial.group)
        scores = self._scores.setdefault(trial.group, {})
        scores[trial.expid] = score(trial, record.metrics.get("valid", {}))
        if len(scores) < self._repeated:
            return
        mean = sum(scores.values()) / len(scores)
        asked = self._asked.pop(trial.group, None)
        if asked is not None:
            self._study.tell(asked, mean)
            return
        made = frozen(self._space, trial.settings, mean)
        if made is not None:
            self._study.add_trial(made)


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL
