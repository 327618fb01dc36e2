"""Every own model trains on a device without mixing devices, and without a wait not listed here.

A wait costs the time that the CPU could have used to queue the next steps. An unlisted one fails
the test of its case, with its file, function, line and operator.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any, NamedTuple

import pytest

from model_zoo import available_models
from tests.gpu.cases import CASES, PLANTED_CASES
from tests.gpu.models import MODELS

SOUND = [name for name in CASES if name not in PLANTED_CASES]
Reports = dict[str, dict[str, Any]]


class Known(NamedTuple):
    """A wait that may be.

    Attributes:
        wait: Pattern of its place and operator.
        cases: Patterns of the cases in which it may be.
        reason: Why it stays.
    """

    wait: str
    cases: tuple[str, ...]
    reason: str


KNOWN = [
    Known(
        "model_zoo/*:_distinct _unique2",
        ("*, distinct items*", "*, lazy*"),
        "the number of distinct items decides the size of what is encoded; a catalogue that is "
        "small beside the batch is encoded whole, without it",
    ),
    Known(
        "model_zoo/*:*packed_history nonzero",
        ("*, padded",),
        "padding has to be found; this project's loader packs histories, so none is left",
    ),
    Known(
        "model_zoo/*:require_finite _local_scalar_dense",
        ("*, step 100",),
        "the look at loss and gradient, every hundredth step",
    ),
    Known(
        "model_zoo/*:_count _local_scalar_dense",
        ("experiment with a progress bar",),
        "the loss that the progress bar shows, at most once a second",
    ),
    Known(
        "model_zoo/*:add_gradient _coalesce",
        ("*, lazy*",),
        "the number of rows in a sparse gradient decides its size",
    ),
    Known(
        "fuxictr/*:forward, backward index",
        ("*, lazy*",),
        "torch leaves padding out of a sparse gradient by a mask",
    ),
    Known(
        "fuxictr/pytorch/models/rank_model.py:evaluate _to_copy",
        ("*, evaluation*",),
        "FuxiCTR's evaluation collects every batch's predictions and labels on the CPU",
    ),
    Known(
        "model_zoo/*:_pool nonzero",
        ("folded, rows*",),
        "history items of weight 0 are left out; the scores go to the CPU right after",
    ),
    Known(
        "model_zoo/longctr_adapter/*",
        ("experiment of FuxiCTR's DIN",),
        "FuxiCTR's models take padded histories, whose width is a number",
    ),
    Known(
        "model_zoo/*",
        ("*, served",),
        "a request waits for its own answer, and a change of items for its check",
    ),
    Known(
        "model_zoo/*:weighted_sums bincount",
        ("folded, rows*",),
        "right after the wait above",
    ),
]


def known(case: str) -> list[Known]:
    return [entry for entry in KNOWN if any(fnmatch(case, pattern) for pattern in entry.cases)]


def unlisted(case: str, waits: dict[str, str]) -> list[str]:
    """The waits of a case that are not on its list, in words."""
    return [
        text
        for wait, text in waits.items()
        if not any(fnmatch(wait, entry.wait) for entry in known(case))
    ]


@pytest.mark.parametrize("case", SOUND)
def test_no_mixed_devices_and_no_unlisted_wait(reports: Reports, case: str) -> None:
    report = reports[case]
    assert report["error"] == ""
    assert unlisted(case, report["waits"]) == []


@pytest.mark.parametrize("case", [name for name in SOUND if "dropout" not in name])
def test_the_device_computes_what_the_cpu_does(reports: Reports, case: str) -> None:
    """Though other code runs there: fast paths are the CPU's, and autocast differs."""
    report = reports[case]
    on_device, on_cpu = report["numbers"]["device"], report["numbers"]["cpu"]
    if "bf16" in case:
        # Not what follows a step: Adam makes whole steps of a gradient that is only rounding.
        before = 1 if report["apart"][0] > 0 else None
        assert on_device[:before] == pytest.approx(on_cpu[:before], rel=0.05, abs=0.05)
    else:
        assert on_device == pytest.approx(on_cpu, rel=1e-4, abs=1e-4)
        largest, mean = report["apart"]
        assert mean < 1e-5
        assert largest < 1e-6 or "SGD" not in case


@pytest.mark.parametrize("case", [name for name in SOUND if ", recorded" in name])
def test_steps_are_recorded_and_replayed(reports: Reports, case: str) -> None:
    """With other rows and another rate each time; that they compute the same is tested above."""
    report = reports[case]
    assert report["numbers"].get("recordings", [1]) == [1]
    assert report["waits"] == {}


def test_a_wait_in_a_recording_is_refused(reports: Reports) -> None:
    error = reports["wait_in_recording"]["error"]
    assert error.startswith("InputError: cuda_graph: True: the step cannot be recorded here; ")
    assert "tests/gpu/mistakes.py:forward (line " in error


@pytest.mark.parametrize("model", MODELS)
def test_autocast_acts(reports: Reports, model: str) -> None:
    full, half = (reports[f"{model}, whole catalogue{end}"]["numbers"] for end in ("", ", bf16"))
    assert full["device"] != half["device"]


def test_every_listed_wait_is_still_there(reports: Reports) -> None:
    for entry in KNOWN:
        waits = [
            wait
            for case, report in reports.items()
            if entry in known(case)
            for wait in report["waits"]
        ]
        assert any(fnmatch(wait, entry.wait) for wait in waits), entry.wait


def test_every_own_model_is_tried() -> None:
    """LongCTR's models, which have a slash in their names, are FuxiCTR's."""
    assert {name for name in available_models() if "/" not in name} == set(MODELS)


@pytest.mark.parametrize(
    ("case", "place", "operator"),
    [
        ("number_in_step", "train_step", "_local_scalar_dense"),
        ("number_in_forward", "forward", "_local_scalar_dense"),
        ("size_in_backward", "backward", "nonzero"),
        ("mask_in_forward", "forward", "index"),
        ("mask_in_forward", "forward, backward", "index_put"),
        ("blocking_copy", "get_labels", "_to_copy"),
    ],
)
def test_a_planted_wait_is_found(reports: Reports, case: str, place: str, operator: str) -> None:
    """Each in a ``train_step`` that is otherwise one of those above."""
    assert reports[case]["error"] == ""
    found = [text for text in unlisted(case, reports[case]["waits"]) if f" {operator} " in text]
    assert len(found) == 1
    assert found[0].startswith(f"tests/gpu/mistakes.py:{place} (line ")


def test_a_planted_tensor_of_the_cpu_is_found(reports: Reports) -> None:
    error = reports["tensor_of_the_cpu"]["error"]
    assert error.startswith("MixedDevicesError: tests/gpu/mistakes.py:add_loss (line ")
    assert "mul of tensors 24x1 on standin:0, 24x1 on cpu" in error
