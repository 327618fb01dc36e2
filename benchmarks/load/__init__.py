"""The service under load, on the loopback: rates, latencies, overload, and a soak.

    OMP_NUM_THREADS=1 python -m benchmarks.load
    OMP_NUM_THREADS=1 python -m benchmarks.load --only soak --minutes 10
    OMP_NUM_THREADS=1 python -m benchmarks.load --form ray --only table

The server is a process of its own and the clients are another, so on two cores they share what
there is: the server's own CPU time stands beside its rates. A model of the experiment's sizes with
random weights is made; no data is needed.

The clients are aiohttp's. For a request of 3 kB with an answer of 2 kB from 32 connections they
took 140 µs of CPU each, Locust's FastHttpUser 180 µs, with times in whole milliseconds, and httpx
4,900 µs.
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    # Not at the top: the clients' process imports this package too, and needs no torch.
    from benchmarks.load.command import main as run

    return run(argv)
