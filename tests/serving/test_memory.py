"""A call's memory does not grow with its candidates beyond what they take themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from model_zoo.core.serving.file import FoldedFile, save_folded
from model_zoo.core.serving.ids import Ids
from model_zoo.QIN.fold import fold
from tests.conftest import ROOT
from tests.QIN.test_model import ITEMS, build

SCORE = f"""
import resource, sys, torch
from model_zoo.core.serving.scorer import Scorer

torch.set_num_threads(1)
scorer = Scorer.load(sys.argv[1])
candidates = torch.randint(1, {ITEMS}, (1_000_000,))
context = {{"level": 1, "hour": 2}}
peaks = []
for count in (20_000, 1_000_000):
    scorer.score([1, 2, 3], candidates[:count], context)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""


def test_a_million_candidates_in_one_call(tmp_path: Path) -> None:
    model = build(tmp_path, embedding_dim=24).eval()
    path = tmp_path / "model.folded"
    save_folded(path, FoldedFile(fold(model), Ids("item_id"), max_len=64))
    done = subprocess.run(
        [sys.executable, "-c", SCORE, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kib_of_results = 2 * 4 * 1_000_000 / 1024  # logits and probabilities
    assert int(done.stdout) < 4 * kib_of_results
