"""Probabilities that mean what they say: a monotone map of the logit, fitted on held-out rows.

Using a map needs torch alone; fitting and measuring one also need scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from model_zoo.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Kind = Literal["platt", "isotonic"]
BINS = 15
"""Equal-width bins of the probability in a `CalibrationReport`."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """A map of the logit to a click probability that never reverses two rows.

    - ``platt``: p = sigmoid(a · logit + b) with a > 0; y = [a, b] and x is empty.
    - ``isotonic``: p runs in straight lines through the points (x, y), and is constant below
      the first and above the last. It may merge neighbouring logits into ties.

    Args:
        kind: ``platt`` or ``isotonic``.
        x: Logits, increasing, (k,) in float64; (0,) for ``platt``.
        y: Probabilities at ``x``, non-decreasing, (k,) in float64; (2,) for ``platt``.

    Raises:
        InputError: If ``kind`` is neither of the two.

    Example:
        >>> halve = Calibration("platt", torch.empty(0), torch.tensor([0.5, 0.0]))
        >>> halve(torch.tensor([0.0, 4.0]))
        tensor([0.5000, 0.8808])
    """

    kind: Kind
    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        _check_kind(self.kind)

    def __call__(self, logit: Tensor) -> Tensor:
        """Click probabilities in float32 of logits of any shape; NaN stays NaN.

        The device of ``logit`` needs float64, in which the map is computed.
        """
        x, y, z = self.x.to(logit.device), self.y.to(logit.device), logit.double()
        if self.kind == "platt":
            return (y[0] * z + y[1]).sigmoid().float()
        z = z.clamp(x[0], x[-1]).contiguous()
        # NaN sorts behind the last point; the first point has none below it.
        above = torch.bucketize(z, x).clamp(max=len(x) - 1)
        below = (above - 1).clamp(min=0)
        width = x[above] - x[below]
        share = (z - x[below]) / width.where(width > 0, 1.0)
        # Rounding must not lift a row over the point above it: that would reverse two rows.
        return torch.minimum(y[below] + share * (y[above] - y[below]), y[above]).float()

    def state(self) -> dict[str, Any]:
        """What ``torch.save`` writes and ``torch.load(weights_only=True)`` gives back."""
        return {"kind": self.kind, "x": self.x, "y": self.y}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Calibration:
        """The map that `state` describes.

        Raises:
            InputError: If its kind is unknown.
        """
        return cls(state["kind"], state["x"], state["y"])


@dataclass(frozen=True)
class CalibrationReport:
    """How far predicted probabilities are from observed clicks.

    Args:
        predicted_over_observed: Sum of the probabilities over the number of clicks; 1 is right,
            and not a number if nothing was clicked.
        expected_calibration_error: Σ over bins of share of rows · |mean p − click rate|.
        mean_predicted: Mean probability in each bin that has rows.
        click_rate: Share of clicked rows in each of these bins.
        rows: Number of rows in each of these bins.
        logloss: Mean of −log of the probability of what happened, in nats.
    """

    predicted_over_observed: float
    expected_calibration_error: float
    mean_predicted: list[float]
    click_rate: list[float]
    rows: list[int]
    logloss: float

    def describe(self) -> str:
        """The three figures in one line."""
        return (
            f"predicted / observed clicks {self.predicted_over_observed:.3f}, "
            f"expected calibration error {self.expected_calibration_error:.4f}, "
            f"logloss {self.logloss:.4f}"
        )


def fit_calibration(kind: Kind, logit: npt.NDArray[Any], label: npt.NDArray[Any]) -> Calibration:
    """Fit a map on rows that the model was not trained on.

    ``platt`` is a logistic regression on the logit without penalty. Where the two classes do
    not overlap no finite slope is best, and the solver stops at a steep one.

    Args:
        kind: ``platt`` or ``isotonic``.
        logit: Scores of the model, (n,).
        label: 1 for a click and 0 for none, (n,).

    Raises:
        InputError: If ``kind`` is unknown, there are fewer than two rows or only one class, a
            logit is not finite, a label is neither 0 nor 1, or (``platt``) clicks do not
            become more likely as the logit rises.
        ValueError: If ``logit`` and ``label`` are not of one shape (n,).
    """
    import numpy as np

    _check_kind(kind)
    logit, label = _pair("logit", logit, label)
    problems = _label_problems(label)
    clicks = np.count_nonzero(label)
    if not 0 < clicks < len(label):
        problems.append(
            "a calibration needs rows with and without a click, "
            f"found {len(label)} rows with {clicks} clicks"
        )
    if bad := np.count_nonzero(~np.isfinite(logit)):
        problems.append(f"{bad} of {len(logit)} logits are not finite")
    if problems:
        raise InputError(problems)
    return (_fit_platt if kind == "platt" else _fit_isotonic)(logit, label)


def _fit_platt(logit: npt.NDArray[np.float64], label: npt.NDArray[np.float64]) -> Calibration:
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    centre, scale = float(logit.mean()), float(logit.std())
    a = b = 0.0
    # What float32 logits cannot tell apart is not a ranking.
    if scale > np.finfo(np.float32).eps * np.abs(logit).max():
        # On the scale of one standard deviation, so that the solver converges for any logits.
        standard = ((logit - centre) / scale)[:, np.newaxis]
        # C = ∞ is no penalty in all versions of scikit-learn; penalty=None is not.
        regression = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(standard, label)
        a = float(regression.coef_[0, 0]) / scale
        b = float(regression.intercept_[0]) - a * centre
    if not 0 < a < math.inf:
        raise InputError(
            "the scores do not rank clicks: the slope of the log-odds over the logit must be "
            f"positive, found a = {a:.6g} on {len(label)} rows"
        )
    return Calibration(
        "platt", torch.empty(0, dtype=torch.float64), torch.tensor([a, b], dtype=torch.float64)
    )


def _fit_isotonic(logit: npt.NDArray[np.float64], label: npt.NDArray[np.float64]) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    regression = IsotonicRegression(out_of_bounds="clip").fit(logit, label)
    # A run of clicks at the top would promise 1, and a single row without a click then costs
    # an infinite logloss. Laplace's rule of succession: n clicks in n rows promise no more
    # than (n + 1) / (n + 2) for the next, and none no less than 1 / (n + 2).
    least = 1 / (len(label) + 2)
    y = regression.y_thresholds_.clip(least, 1 - least)
    # Copies: what scikit-learn gives may be views of larger arrays, which torch.save would write.
    return Calibration("isotonic", torch.tensor(regression.X_thresholds_), torch.tensor(y))


def measure_calibration(
    probability: npt.NDArray[Any], label: npt.NDArray[Any]
) -> CalibrationReport:
    """Compare probabilities with clicks, in 15 bins of equal width.

    Args:
        probability: Predicted click probabilities, (n,).
        label: 1 for a click and 0 for none, (n,).

    Raises:
        InputError: If there are no rows, a probability is outside 0 to 1 or not a number, or
            a label is neither 0 nor 1.
        ValueError: If ``probability`` and ``label`` are not of one shape (n,).
    """
    import numpy as np
    from sklearn.metrics import log_loss

    probability, label = _pair("probability", probability, label)
    problems = _label_problems(label)
    if len(label) == 0:
        problems.append("there are no rows to measure")
    if bad := np.count_nonzero(~((probability >= 0) & (probability <= 1))):
        problems.append(f"{bad} of {len(probability)} probabilities are not between 0 and 1")
    if problems:
        raise InputError(problems)
    # A probability of 1 belongs to the last bin.
    index = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    rows = np.bincount(index, minlength=BINS)
    used = rows > 0
    predicted = np.bincount(index, probability, BINS)[used]
    clicks = np.bincount(index, label, BINS)[used]
    rows = rows[used]
    total = float(label.sum())
    return CalibrationReport(
        predicted_over_observed=float(probability.sum()) / total if total else math.nan,
        expected_calibration_error=float(np.abs(predicted - clicks).sum() / len(label)),
        mean_predicted=(predicted / rows).tolist(),
        click_rate=(clicks / rows).tolist(),
        rows=rows.tolist(),
        logloss=float(log_loss(label, probability, labels=[0, 1])),
    )


def held_out_effect(
    kind: Kind, logit: npt.NDArray[Any], label: npt.NDArray[Any], seed: int
) -> tuple[CalibrationReport, CalibrationReport]:
    """What a map does for rows that it was not fitted on.

    It is fitted on a random half of the rows and measured on the others.

    Args:
        kind: ``platt`` or ``isotonic``.
        logit: Scores of the model, (n,).
        label: 1 for a click and 0 for none, (n,).
        seed: Chooses the half.

    Returns:
        The report of sigmoid(logit), and that of the map.

    Raises:
        InputError: As `fit_calibration` on that half, or `measure_calibration` on the other.
        ValueError: If ``logit`` and ``label`` are not of one shape (n,).
    """
    import numpy as np

    logit, label = _pair("logit", logit, label)
    fit, rest = np.array_split(np.random.default_rng(seed).permutation(len(label)), 2)
    calibration = fit_calibration(kind, logit[fit], label[fit])
    held_out = torch.from_numpy(logit[rest])
    before, after = held_out.sigmoid().numpy(), calibration(held_out).numpy()
    return measure_calibration(before, label[rest]), measure_calibration(after, label[rest])


def _check_kind(kind: str) -> None:
    if kind not in get_args(Kind):
        raise InputError(f"calibration must be one of {', '.join(get_args(Kind))}, found '{kind}'")


def _pair(
    name: str, values: npt.NDArray[Any], label: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    import numpy as np

    values, label = np.asarray(values, np.float64), np.asarray(label, np.float64)
    if values.ndim != 1 or values.shape != label.shape:
        raise ValueError(
            f"{name} and label must be of one shape (n,), found {values.shape} and {label.shape}"
        )
    return values, label


def _label_problems(label: npt.NDArray[np.float64]) -> list[str]:
    bad = int(((label != 0) & (label != 1)).sum())
    return [f"{bad} of {len(label)} labels are neither 0 nor 1"] if bad else []
