"""What is measured of a service, as tables in Markdown."""

from __future__ import annotations

import argparse
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import numpy as np

from benchmarks.load.clients import Outcome, Work, closed_loop, open_loop
from benchmarks.load.forms import Form, Running
from benchmarks.load.made import JSON, Requests, draw_requests, write_folded
from benchmarks.load.usage import batch_counts, cpu_seconds, resident, scorer_rate
from model_zoo.core.commands.config import Experiment
from model_zoo.core.serving.network.binary import MEDIA_TYPE
from model_zoo.core.serving.scorer import Scorer

MEDIA = {"json": JSON, "binary": MEDIA_TYPE}
ROOM = {"max_queue_rows": 1_000_000}  # where nothing is to be refused
FULL = 48  # requests of 1,000 rows: as many as the queue holds
SAMPLE_SECONDS = 0.5
COLUMNS = (
    *("candidates", "body", "concurrency", "rows/s", "p50", "p99", "requests a batch"),
    *("server's CPU", "rows per CPU second", "of the scorer's with the same batches"),
    *("clients' CPU", "refused, failed"),
)


@dataclass(frozen=True)
class Run:
    """One call of the benchmark.

    Attributes:
        arguments: Of the command line.
        experiment: Whose sizes the model has.
        path: The folded file.
        form: How it is served.
        clients: Their process.
    """

    arguments: argparse.Namespace
    experiment: Experiment
    path: Path
    form: Form
    clients: ProcessPoolExecutor

    def serving(self, **limits: int) -> AbstractContextManager[Running]:
        return self.form(self.path, self.arguments.workers, **limits)

    def work(self, server: Running, requests: Requests, body: str) -> Work:
        return Work(f"{server.url}/score", requests.bodies(MEDIA[body]), MEDIA[body])

    def closed(self, work: Work, concurrency: int, seconds: float) -> Outcome:
        return self.clients.submit(closed_loop, work, concurrency, seconds).result()


def table(run: Run) -> None:
    """Rates and latencies by candidates, form of the body and concurrency."""
    scorer = Scorer.load(run.path)
    _head(*COLUMNS)
    with run.serving(**ROOM) as server:
        for candidates in run.arguments.candidates:
            requests = draw_requests(run.experiment, candidates)
            for body in run.arguments.bodies:
                work = run.work(server, requests, body)
                for concurrency in run.arguments.concurrency:
                    run.closed(work, concurrency, 1.0)
                    print(_line(run, server, scorer, requests, work, body, concurrency), flush=True)
    print()


def _line(
    run: Run,
    server: Running,
    scorer: Scorer,
    requests: Requests,
    work: Work,
    body: str,
    concurrency: int,
) -> str:
    before, counts = cpu_seconds(server.pid), batch_counts(server.metrics())
    outcome = run.closed(work, concurrency, run.arguments.seconds)
    cpu = cpu_seconds(server.pid) - before
    scored, batches = (b - a for a, b in zip(counts, batch_counts(server.metrics()), strict=True))
    together = max(1, round(scored / max(batches, 1)))
    rows = len(outcome.answered) * requests.candidates
    given = requests.lists if body == "json" else requests.tensors
    alone = scorer_rate(scorer, given, together, 1.0)
    return (
        f"| {requests.candidates:,} | {body} | {concurrency} | {rows / outcome.seconds:,.0f} | "
        f"{_quantiles(outcome.answered, ' | ')} | {together} | {cpu / outcome.seconds:.0%} | "
        f"{rows / cpu:,.0f} | {rows / cpu / alone:.0%} of {alone:,.0f} | "
        f"{outcome.cpu / outcome.seconds:.0%} | {_trouble(outcome)} |"
    )


def overload(run: Run) -> None:
    """Three times as many requests as can be answered."""
    requests = draw_requests(run.experiment, 1_000)
    with run.serving() as server:
        work = run.work(server, requests, "binary")
        seconds = run.arguments.seconds
        run.closed(work, FULL, 2.0)
        _head("", "requests/s", "answered/s", "p50", "p99", "refused (p99)", "failed", "MiB")
        alone = run.closed(work, 1, seconds)
        _overload_line("one client, before", alone, resident(server.pid))
        full = run.closed(work, FULL, 2 * seconds)
        _overload_line(f"at capacity ({FULL} clients)", full, resident(server.pid))
        rate = 3 * len(full.answered) / full.seconds
        with _sampled(lambda: resident(server.pid)) as memory:
            length = run.arguments.overload_seconds
            over = run.clients.submit(open_loop, work, rate, length).result()
        _overload_line(f"3x capacity, {length:g} s", over, max(memory))
        after = run.closed(work, 1, seconds)
        _overload_line("one client, after", after, resident(server.pid))
    ratio = np.percentile(over.answered, 99) / np.percentile(full.answered, 99)
    print(f"\np99 of what was answered: {ratio:.2f} times that at capacity\n")


def _overload_line(what: str, outcome: Outcome, mib: float) -> None:
    sent = len(outcome.answered) + len(outcome.refused) + outcome.failures.total()
    refused = f"{len(outcome.refused):,}"
    if outcome.refused:
        refused += f" ({np.percentile(outcome.refused, 99) * 1e3:.0f} ms)"
    answered = len(outcome.answered) / outcome.seconds
    print(
        f"| {what} | {sent / outcome.seconds:,.0f} | {answered:,.0f} | "
        f"{_quantiles(outcome.answered, ' | ')} | {refused} | {_failures(outcome)} | {mib:,.0f} |",
        flush=True,
    )


def soak(run: Run) -> None:
    """Load with changes of items every second, and of the model every ten."""
    requests = draw_requests(run.experiment, 100)
    other = write_folded(run.experiment, run.path.with_name("other.folded"))
    done: Counter[str] = Counter()
    minutes: list[tuple[float, Outcome]] = []
    with run.serving() as server:
        work = run.work(server, requests, "json")
        whole = max(1, round(run.arguments.minutes))
        _head("minute", "requests/s", "p50", "p99", "refused, failed", "resident, MiB")
        with _changing(server, [run.path.name, other.name], done):
            for minute in range(1, whole + 1):
                length = 60 * run.arguments.minutes / whole
                with _sampled(lambda: resident(server.pid)) as memory:
                    outcome = run.closed(work, 8, length)
                minutes.append((median(memory), outcome))
                print(
                    f"| {minute} | {len(outcome.answered) / outcome.seconds:,.0f} | "
                    f"{_quantiles(outcome.answered, ' | ')} | {_trouble(outcome)} | "
                    f"{median(memory):,.0f} (up to {max(memory):,.0f}) |",
                    flush=True,
                )
    answers = ", ".join(f"{count:,} {what}" for what, count in sorted(done.items()))
    print(f"\nChanges: {answers}.")
    if len(minutes) > 2:
        first, last = minutes[1][0], minutes[-1][0]
        print(f"Resident memory, medians: the last minute's is {last / first:.1%} of the second's.")
    print()


@contextmanager
def _changing(server: Running, files: list[str], done: Counter[str]) -> Iterator[None]:
    """New tags for an item every second, and another file every ten."""
    stop = threading.Event()

    def change() -> None:
        with httpx.Client(base_url=server.url, headers=server.owner, timeout=60) as client:
            step = 0
            while not stop.wait(1.0):
                step += 1
                if step % 10:
                    feature = {"item_tags": [[1 + step % 100, 2]]}
                    asked = {"ids": [1 + step % 1_000], "features": feature}
                    answer = client.post("/items", json=asked)
                else:
                    answer = client.post("/reload", json={"file": files[step // 10 % 2]})
                done[f"{answer.request.url.path} {answer.status_code}"] += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _sampled(measure: Callable[[], float]) -> Iterator[list[float]]:
    """A figure, taken twice a second during the block."""
    found, stop = [measure()], threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            found.append(measure())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def _head(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def _quantiles(seconds: list[float], between: str) -> str:
    if not seconds:
        return between.join(["none", "none"])
    return between.join(f"{value * 1e3:.1f} ms" for value in np.percentile(seconds, [50, 99]))


def _trouble(outcome: Outcome) -> str:
    return f"{len(outcome.refused):,}, {_failures(outcome)}"


def _failures(outcome: Outcome) -> str:
    named = ", ".join(f"{what}: {count:,}" for what, count in outcome.failures.items())
    return named or "0"
