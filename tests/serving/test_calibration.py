"""Calibration against scikit-learn, and the properties it must have."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from model_zoo.core.commands.curve import draw_reliability_curve
from model_zoo.core.errors import InputError
from model_zoo.core.serving.calibration import (
    Calibration,
    CalibrationReport,
    Kind,
    fit_calibration,
    held_out_effect,
    measure_calibration,
)

KINDS: list[Kind] = ["platt", "isotonic"]
LOGITS = st.floats(allow_nan=False, allow_infinity=False, width=32)
EVERYDAY_LOGITS = st.integers(-40, 40).map(lambda eighths: eighths / 8)


def draw(seed: int, rows: int, slope: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Logits with ties, and clicks whose true logit is ``slope`` times as large."""
    random = np.random.default_rng(seed)
    logit = random.normal(0, 3, rows).round(2)
    label = (random.random(rows) < 1 / (1 + np.exp(-slope * logit))).astype(np.int64)
    label[:2] = 0, 1
    return logit, label


def around(logit: np.ndarray) -> np.ndarray:
    """The logits, places between them and places beyond them, increasing."""
    known = np.unique(logit)
    between = (known[1:] + known[:-1]) / 2
    return np.sort(np.concatenate([known, between, [known[0] - 1, known[-1] + 1, -1e30, 1e30]]))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    scores=st.one_of(
        *(st.lists(logits, min_size=2, max_size=30) for logits in (LOGITS, EVERYDAY_LOGITS))
    ),
    seed=st.integers(0, 10**6),
)
def test_the_ranking_is_never_reversed(kind: Kind, scores: list[float], seed: int) -> None:
    logit = np.array(scores)
    label = np.random.default_rng(seed).integers(0, 2, len(logit))
    label[:2] = 0, 1
    try:
        calibration = fit_calibration(kind, logit, label)
    except InputError:
        if kind == "isotonic":
            raise
        reject()
    probability = calibration(torch.from_numpy(around(logit)))
    assert (probability.diff() >= 0).all()
    assert probability.min() >= 0 and probability.max() <= 1


def test_isotonic_is_monotone_to_the_last_bit() -> None:
    """Points for which low + (high - low) is more than high, and float32 shows it."""
    low, high = 0.125 + 3 * 2**-54, 0.75 - 2**-25 - 2**-53
    assert low + (high - low) > high
    x, y, asked = (
        torch.tensor(values, dtype=torch.float64)
        for values in ([0.0, 1.0, 2.0], [low, high, high], [1.0, 1.5])
    )
    probability = Calibration("isotonic", x, y)(asked)
    assert probability[0] <= probability[1]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(50, 300))
def test_platt_keeps_the_strict_order(seed: int, rows: int) -> None:
    logit, label = draw(seed, rows)
    calibration = fit_calibration("platt", logit, label)
    steps = torch.from_numpy(np.unique(logit))
    a, b = calibration.y
    # Near 0 and 1, and for steps near its resolution, float32 has no room for an order.
    room = ((a * steps + b).abs() < 8)[1:] & (a * steps.diff() > 1e-3)
    assert room.any()
    assert (calibration(steps).diff()[room] > 0).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 200), slope=st.floats(-1, 2))
def test_isotonic_equals_scikit_learn(seed: int, rows: int, slope: float) -> None:
    logit, label = draw(seed, rows, slope)
    least = 1 / (rows + 2)
    theirs = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    theirs.fit(logit, label)
    asked = around(logit)
    ours = fit_calibration("isotonic", logit, label)(torch.from_numpy(asked))
    np.testing.assert_allclose(ours.numpy(), theirs.predict(asked), rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(100, 300))
def test_platt_equals_scikit_learn(seed: int, rows: int) -> None:
    logit, label = draw(seed, rows)
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(logit[:, None], label)
    asked = around(logit)
    calibration = fit_calibration("platt", logit, label)
    # The slope has all its digits, not those of float32 alone.
    assert calibration.y[0] != calibration.y[0].float()
    ours = calibration(torch.from_numpy(asked))
    wanted = theirs.predict_proba(asked[:, None])[:, 1]
    np.testing.assert_allclose(ours.numpy(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stretch", [1e-6, 1.0, 1e6])
def test_platt_finds_the_slope_on_any_scale(stretch: float) -> None:
    logit, label = draw(1, 20_000)
    a, b = fit_calibration("platt", (logit + 10) * stretch, label).y.tolist()
    assert a * stretch == pytest.approx(0.5, abs=0.03)
    assert b == pytest.approx(-5, abs=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_over_confident_scores_get_better(kind: Kind) -> None:
    logit, label = draw(2, 20_000)
    before, after = held_out_effect(kind, logit, label, seed=3)
    assert after.logloss < before.logloss - 0.05
    assert after.expected_calibration_error < before.expected_calibration_error / 3
    assert sum(before.rows) == sum(after.rows) == 10_000
    assert held_out_effect(kind, logit, label, seed=3) == (before, after)
    assert held_out_effect(kind, logit, label, seed=4) != (before, after)


def test_the_effect_is_measured_on_rows_that_were_not_fitted() -> None:
    """Clicks without a pattern: learnt by heart they would look better than a coin."""
    random = np.random.default_rng(5)
    logit, label = np.zeros(400) + random.normal(0, 1e-3, 400), random.integers(0, 2, 400)
    _, after = held_out_effect("isotonic", logit, label, seed=6)
    assert after.logloss > math.log(2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_map_is_the_same_map(kind: Kind, tmp_path: Path) -> None:
    logit, label = draw(7, 200)
    calibration = fit_calibration(kind, logit, label)
    assert calibration.x.dtype == calibration.y.dtype == torch.float64
    torch.save(calibration.state(), tmp_path / "map.pt")
    loaded = Calibration.from_state(torch.load(tmp_path / "map.pt", weights_only=True))
    asked = torch.from_numpy(around(logit))
    assert loaded.kind == kind
    assert torch.equal(loaded(asked), calibration(asked))


@pytest.mark.parametrize("kind", KINDS)
def test_shape_type_and_what_is_no_number(kind: Kind) -> None:
    calibration = fit_calibration(kind, *draw(8, 200))
    logit = torch.tensor([[-math.inf, math.nan, math.inf], [-1.0, 0.0, 1.0]]).T
    probability = calibration(logit)
    assert probability.shape == (3, 2) and probability.dtype == torch.float32
    assert torch.equal(probability.isnan(), logit.isnan())
    assert probability[0, 0] < probability[1, 1] < probability[2, 0]
    assert calibration(logit[2, 1]).shape == () and calibration(logit[:0]).shape == (0, 2)
    torch.testing.assert_close(calibration(logit.half()), probability, equal_nan=True)


def test_isotonic_promises_nothing_for_sure() -> None:
    calibration = fit_calibration("isotonic", np.arange(8.0), np.arange(8) >= 4)
    ends = calibration(torch.tensor([-1.0, 9.0]))
    torch.testing.assert_close(ends, torch.tensor([0.1, 0.9]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_is_used_with_torch_alone(kind: Kind, tmp_path: Path) -> None:
    calibration = fit_calibration(kind, *draw(9, 200))
    torch.save(calibration.state(), tmp_path / "map.pt")
    code = (
        "import sys, torch\n"
        "for name in ('numpy', 'sklearn', 'fuxictr', 'polars', 'pandas', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from model_zoo.core.serving.calibration import Calibration\n"
        "state = torch.load(sys.argv[1], weights_only=True)\n"
        "print(Calibration.from_state(state)(torch.tensor(0.5)).item())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "map.pt")]
    root = Path(__file__).resolve().parents[2]
    printed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    assert float(printed) == calibration(torch.tensor(0.5)).item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("logit", "label", "message"),
    [
        ([1.0, 2.0, 3.0], [1, 1, 1], "3 rows with 3 clicks"),
        ([1.0, 2.0, 3.0], [0, 0, 0], "3 rows with 0 clicks"),
        ([1.0], [1], "1 rows with 1 clicks"),
        ([], [], "0 rows with 0 clicks"),
        ([math.nan, 1.0, math.inf], [0, 1, 1], "2 of 3 logits are not finite"),
        ([1.0, 2.0, 3.0], [0, 1, 2], "1 of 3 labels"),
    ],
)
def test_rows_that_cannot_be_fitted_are_counted(
    kind: Kind, logit: list[float], label: list[int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit_calibration(kind, np.array(logit), np.array(label))


def test_scores_that_do_not_rank_are_refused() -> None:
    logit, label = draw(10, 1000, slope=-0.5)
    with pytest.raises(InputError, match=r"do not rank clicks.*a = -0\.[45]"):
        fit_calibration("platt", logit, label)
    with pytest.raises(InputError, match=r"do not rank clicks.*a = 0 "):
        fit_calibration("platt", np.full(4, 0.1), np.array([0, 1, 0, 1]))


def test_other_mistakes_are_named() -> None:
    logit, label = draw(11, 10)
    with pytest.raises(InputError, match="platt, isotonic, found 'beta'"):
        fit_calibration("beta", logit, label)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="platt, isotonic, found 'beta'"):
        Calibration.from_state({"kind": "beta", "x": torch.empty(0), "y": torch.ones(2)})
    for function in (measure_calibration, lambda *pair: fit_calibration("platt", *pair)):
        with pytest.raises(ValueError, match=r"\(10,\) and \(9,\)"):
            function(logit, label[:9])
    with pytest.raises(InputError, match="no rows"):
        measure_calibration(np.empty(0), np.empty(0))
    with pytest.raises(InputError, match="3 of 4 probabilities"):
        measure_calibration(np.array([0.5, 1.5, -0.1, math.nan]), np.array([0, 1, 0, 1]))


def slow_report(probability: list[float], label: list[int]) -> tuple[float, list[list[float]]]:
    """Expected calibration error, and mean p, click rate and rows of each bin that has any."""
    error, bins = 0.0, []
    for k in range(15):
        mine = [i for i, p in enumerate(probability) if min(math.floor(p * 15), 14) == k]
        if mine:
            mean = sum(probability[i] for i in mine) / len(mine)
            rate = sum(label[i] for i in mine) / len(mine)
            error += len(mine) / len(label) * abs(mean - rate)
            bins.append([mean, rate, len(mine)])
    return error, bins


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=60))
def test_a_report_equals_the_formula(rows: list[tuple[float, int]]) -> None:
    probability, label = [p for p, _ in rows], [y for _, y in rows]
    report = measure_calibration(np.array(probability), np.array(label))
    error, bins = slow_report(probability, label)
    assert report.expected_calibration_error == pytest.approx(error, abs=1e-12)
    found = list(zip(report.mean_predicted, report.click_rate, report.rows, strict=True))
    np.testing.assert_allclose(found, bins, rtol=1e-12)
    if clicks := sum(label):
        assert report.predicted_over_observed == pytest.approx(sum(probability) / clicks)
    else:
        assert math.isnan(report.predicted_over_observed)


def test_logloss_and_description() -> None:
    report = measure_calibration(np.array([0.5, 0.25, 1.0]), np.array([1, 0, 1]))
    assert report.logloss == pytest.approx((math.log(2) - math.log(0.75)) / 3)
    described = CalibrationReport(1.0341, 0.01229, [], [], [], 0.43211).describe()
    assert described == (
        "predicted / observed clicks 1.034, expected calibration error 0.0123, logloss 0.4321"
    )


def test_reliability_curve_is_a_square_picture(tmp_path: Path) -> None:
    logit, label = draw(12, 2000)
    before, after = held_out_effect("platt", logit, label, seed=13)
    draw_reliability_curve({"before": before}, tmp_path / "one.png", title="made")
    draw_reliability_curve({"before": before, "platt": after}, tmp_path / "two.png", title="made")
    one, two = (tmp_path / "one.png").read_bytes(), (tmp_path / "two.png").read_bytes()
    assert one.startswith(b"\x89PNG") and two.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", one[16:24])
    assert width == height
    assert one != two
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]
