"""What a case on the stand-in leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.gpu.device import StandIn


@dataclass
class Report:
    """What a case left.

    Attributes:
        waits: ``"<place> <operator>"`` -> the wait in words.
        error: What ended the case, if it did not end well.
        numbers: What the case found on the ``device`` and on the ``cpu``: losses, metrics, logits.
        apart: How far the weights are from the CPU's after the case: the most, and on average.
    """

    waits: dict[str, str] = field(default_factory=dict)
    error: str = ""
    numbers: dict[str, list[float]] = field(default_factory=dict)
    apart: tuple[float, float] = (0.0, 0.0)


def note(report: Report, device: StandIn) -> None:
    report.waits |= {f"{wait.place} {wait.operator}": str(wait) for wait in device.waits}
    device.waits.clear()
