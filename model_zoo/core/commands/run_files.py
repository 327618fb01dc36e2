"""What a training writes as FuxiCTR's users know it: its log, and a line for its result."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fuxictr.utils import print_to_list, set_logger

from model_zoo.core.commands.config import Experiment
from model_zoo.core.training.processes import is_main


def start_log(params: Mapping[str, Any], *, keep: bool) -> None:
    """FuxiCTR's log file, which it empties; ``keep`` what a resumed training wrote before.

    Of several processes the main one writes it; the others only warn on the console.
    """
    if not is_main():
        logging.basicConfig(level=logging.WARNING, force=True)
        return
    path = Path(params["model_root"]) / params["dataset_id"] / f"{params['model_id']}.log"
    before = path.read_text(encoding="utf-8") if keep and path.is_file() else ""
    set_logger(params)
    if before:
        path.write_text(before, encoding="utf-8")
        # FuxiCTR's handler still writes at the beginning; let it write at the end.
        handler = next(h for h in logging.root.handlers if isinstance(h, logging.FileHandler))
        assert handler.stream is not None  # set_logger has opened it
        handler.stream.seek(0, os.SEEK_END)


def append_result_line(
    config_dir: Path, experiment: Experiment, results: Mapping[str, Mapping[str, float]]
) -> None:
    """FuxiCTR's line in ``<config>.csv``."""
    line = (
        f" {datetime.now():%Y%m%d-%H%M%S},[command] python {shlex.join(sys.argv)},"
        f"[exp_id] {experiment.run.model_id},[dataset_id] {experiment.dataset.dataset_id},"
        f"[train] N.A.,[val] {print_to_list(results['valid'])},"
        f"[test] {print_to_list(results.get('test', {}))}\n"
    )
    with open(f"{config_dir.resolve().name}.csv", "a", encoding="utf-8") as file:
        file.write(line)
