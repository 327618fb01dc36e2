"""What the tuner costs beside its trials, what a kill loses, and what stopping weak trials saves.

python -m benchmarks.tuning overhead killed asha
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "run_param_tuner.py"
SLOTS = 2


def tuner_file(name: str, expid: str, space: dict[str, object]) -> None:
    content = {"base_config": str(ROOT / "config"), "base_expid": expid, "tuner_space": space}
    Path(f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def start(name: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), "--config", f"{name}.yaml", "--gpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *["-1"] * SLOTS, *options], env=environment, stdout=subprocess.PIPE, text=True
    )


def finish(search: subprocess.Popen[str]) -> None:
    output, _ = search.communicate()
    if search.returncode:
        raise SystemExit(f"the search ended with exit code {search.returncode}:\n{output}")


def trials(name: str) -> list[dict[str, str]]:
    with open(Path(name) / "trials.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def overhead(epochs: int) -> None:
    """Wall time of a whole search over the time of its trials on all slots."""
    rates = [1.0e-3 * 1.2**i for i in range(8)]
    space = {"learning_rate": rates, "num_row": [1, 2], "epochs": epochs, "early_stop_patience": 99}
    tuner_file("overhead", "QIN_test", space)
    begin = time.perf_counter()
    finish(start("overhead"))
    wall = time.perf_counter() - begin
    expids = [line["trial"] for line in trials("overhead")]
    with ThreadPoolExecutor(SLOTS) as pool:
        alone = list(pool.map(alone_seconds, expids))
    inside = [float(line["seconds"]) for line in trials("overhead")]
    print(
        f"overhead: {len(alone)} trials in {wall:.1f} s on {SLOTS} slots; as processes of "
        f"run_expid.py they take {sum(alone) / len(alone):.1f} s each: "
        f"{wall * SLOTS / sum(alone) - 1:+.1%}; without their imports, "
        f"{sum(inside) / len(inside):.1f} s each: {wall * SLOTS / sum(inside) - 1:+.1%}"
    )


def alone_seconds(expid: str) -> float:
    """Seconds of one trial, run by itself."""
    command = [sys.executable, str(ROOT / "run_expid.py"), "--config", "overhead"]
    begin = time.perf_counter()
    subprocess.run(
        [*command, "--expid", expid],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - begin


def killed(epochs: int) -> None:
    """Optimizer steps that are computed again after SIGKILL, and whether the table is the same."""
    rates = [5.0e-4, 1.0e-3, 2.0e-3, 4.0e-3]
    space = {"learning_rate": rates, "num_row": [1, 2], "epochs": epochs}
    for name in ("whole", "killed"):
        tuner_file(name, "QIN_test", {**space, "model_root": name})
    finish(start("whole"))
    search = start("killed")
    while len(list(Path("killed").glob("*/*.state"))) < SLOTS + 1:
        time.sleep(0.1)
    search.kill()
    search.communicate()
    finish(start("killed"))
    log = "\n".join(p.read_text(encoding="utf-8") for p in Path("killed/trials").glob("*.out"))
    stopped = [int(step) for step in re.findall(r"stopped by SIGTERM after step (\d+)", log)]
    resumed = [int(step) for step in re.findall(r"Resumed in .*, step (\d+)", log)]
    columns = ("rank", "trial", "valid AUC")
    same = [[t[c] for c in columns] for t in trials("killed")] == [
        [t[c] for c in columns] for t in trials("whole")
    ]
    print(
        f"killed: stopped after steps {sorted(stopped)}, went on after steps {sorted(resumed)}; "
        f"the table is {'the same' if same else 'ANOTHER'}"
    )


def asha(epochs: int) -> None:
    """A grid around ``QIN_default``, with and without stopping weak trials."""
    rates = [2.5e-4, 5.0e-4, 1.0e-3, 2.0e-3, 4.0e-3, 8.0e-3]
    space = {"learning_rate": rates, "num_row": [1, 4], "epochs": epochs}
    found = {}
    for name, options in (("grid", []), ("asha", ["--prune"])):
        tuner_file(name, "QIN_default", {**space, "model_root": name})
        begin = time.perf_counter()
        finish(start(name, *options))
        seconds = time.perf_counter() - begin
        lines = trials(name)
        trained = sum(float(line["epochs"]) for line in lines)
        found[name] = seconds, float(lines[0]["valid AUC"]), trained
        print(f"asha: {name}: {len(lines)} trials, {trained:g} epochs, {seconds:.0f} s", flush=True)
    (whole, best, all_epochs), (pruned, reached, some) = found["grid"], found["asha"]
    print(
        f"asha: best valid AUC {reached:.4f}, the grid's {best:.4f}: {reached - best:+.4f}, with "
        f"{some / all_epochs:.2f} of its epochs in {pruned / whole:.2f} of its time"
    )


def picture(epochs: int) -> None:
    """``docs/tuning.webp``: the report of a small search, as Chromium shows it."""
    from PIL import Image

    space = {"learning_rate": [1.0e-3, 4.0e-3], "num_row": [1, 4], "seed": [1, 2]}
    tuner_file("search", "QIN_test", {**space, "epochs": epochs, "early_stop_patience": 99})
    finish(start("search"))
    page = Path("search/report.html").resolve().as_uri()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += ["--virtual-time-budget=15000", "--window-size=1100,1560", "--screenshot=shown.png"]
    subprocess.run(["chromium", *options, page], check=True, capture_output=True)
    with Image.open("shown.png") as shown:
        shown.save(ROOT / "docs" / "tuning.webp", quality=85)
    print(f"{ROOT / 'docs' / 'tuning.webp'} written")


PARTS = {"overhead": overhead, "killed": killed, "asha": asha, "picture": picture}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=list(PARTS))
    parser.add_argument("--epochs", type=int, default=16, help="of the longest trial")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in arguments.parts:
            PARTS[name](arguments.epochs)
        os.chdir(ROOT)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
