"""What each of FuxiCTR's LongCTR models expects of its batches and settings, from its source.

All ten read (row features, features of B·(L+1) items with the target last, mask (B, L)).

- DIEN packs a row's first ``mask.sum()`` slots, so it wants the padding on the right; it cannot
  run on a batch in which fewer than two rows have a history.
- SIM, ETA, SDIM, TWIN and MIRRN take ``[-short_seq_len:-1]`` of the L + 1 items and of the L
  mask entries. The two agree in length from L = ``short_seq_len`` on, and are one apart: an
  item is masked by the entry of the item before it, so that the oldest item of a history
  shorter than the window is not seen by the short attention. They run as they are.
- SIM and ETA take the ``topk`` best of the L slots. In SIM, a padded slot (score 0) comes before
  an item with a negative score; in ETA, many items have the same distance, and which of them
  are taken depends on L. MIRRN takes ``topk`` slots, padded ones too, numbers them from the
  end, and transforms them by their frequencies. A row's score would depend on the longest
  history of its batch, so L is always ``max_len`` there.
- TransAct takes the last ``first_k_cols`` slots.
- DCNv2 and FinalMLP add up all slots, so padding must be zeros; FinalMLP makes its feature
  selection (``use_fs``, ``fs1_context``, ...) but does not apply it.
- DIN's and DIEN's Dice normalises over all slots of a training batch, padded ones too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from model_zoo.longctr_adapter.batch import Padding


def padding_of(name: str, settings: Mapping[str, Any], *, max_len: int) -> Padding:
    """How the model wants its histories.

    Args:
        name: Name of the model.
        settings: All its arguments.
        max_len: Items of a history at most.
    """
    if name == "DIEN":
        return Padding("right", rows=2)
    slots = max(1, settings.get("short_seq_len", 1), settings.get("first_k_cols", 1))
    if name == "MIRRN" or (name in ("SIM", "ETA") and settings["topk"] < max_len):
        slots = max(slots, max_len)
    return Padding("left", slots=slots)


def problems_of(
    name: str,
    settings: Mapping[str, Any],
    *,
    width: int,
    max_len: int,
    features: Collection[str],
    precision: str,
    processes: int,
) -> list[str]:
    """Settings that fail in FuxiCTR's code, or score a row differently from call to call.

    Args:
        name: Name of the model.
        settings: All its arguments.
        width: Width of the item vector.
        max_len: Items of a history at most.
        features: Names of the features.
        precision: ``fp32`` or ``bf16``.
        processes: Processes that train together.
    """
    problems = [f"{key} needs at least one number" for key in _required_units(name, settings)]
    if "num_heads" in settings and not problems:
        heads = settings["num_heads"]
        problems += [
            f"num_heads is {heads}, which does not divide {what}, {number}"
            for what, number in _divided_by_heads(name, settings, width).items()
            if number % heads
        ]
    if settings.get("short_seq_len", 2) < 2:
        problems.append("short_seq_len must be at least 2: the target is one of its items")
    if settings.get("reuse_hash") is False:
        problems.append(
            "reuse_hash: False draws new hashes at every call, also when it scores; "
            "with True they are part of the checkpoint"
        )
    if settings.get("use_time_window_mask"):
        problems.append(
            "use_time_window_mask needs the time since each history item, and FuxiCTR's "
            "TransAct is given no such column"
        )
    if settings.get("Kc_cross_features"):
        problems.append(
            f"Kc_cross_features must be 0, got {settings['Kc_cross_features']}: FuxiCTR's TWIN "
            "then projects a target of another width than its layer has"
        )
    if settings.get("gru_type") == "AIGRU":
        problems.append(
            "gru_type must be GRU, AGRU or AUGRU: FuxiCTR's AIGRU multiplies (B, L, D) by (B, L)"
        )
    if name == "MIRRN":
        if width % 4:
            problems.append(f"the width of the item vector is {width}, and must be divisible by 4")
        if settings["short_seq_len"] > max_len:
            problems.append(f"short_seq_len is {settings['short_seq_len']}, max_len {max_len}")
    if name == "SDIM" and precision == "bf16" and settings["hash_bits"] > 8:
        problems.append(
            f"hash_bits is {settings['hash_bits']}: bfloat16 has 8 bits to tell buckets apart"
        )
    if name == "FinalMLP":
        problems += [
            f"{key}: '{feature}' is no feature; known: {', '.join(features)}"
            for key in ("fs1_context", "fs2_context")
            for feature in settings[key]
            if feature not in features
        ]
        if settings["use_fs"] and processes > 1:
            problems.append(
                "use_fs: FuxiCTR's FinalMLP does not use its feature selection, and parameters "
                f"without a gradient cannot be trained by {processes} processes; use False"
            )
    return problems


def _required_units(name: str, settings: Mapping[str, Any]) -> list[str]:
    """Lists of hidden units whose last one FuxiCTR's code reads, but which are empty."""
    required = {
        "TransAct": ["dcn_hidden_units"],
        "FinalMLP": ["mlp1_hidden_units", "mlp2_hidden_units"],
    }.get(name, [])
    for part in ("stacked", "parallel"):
        if part in settings.get("model_structure", "").split("_"):
            required.append(f"{part}_dnn_hidden_units")
    return [key for key in required if not settings[key]]


def _divided_by_heads(name: str, settings: Mapping[str, Any], width: int) -> dict[str, int]:
    """What -> the width that the heads share."""
    if name == "TransAct":
        return {"twice the width of the item vector": 2 * width}
    if name == "FinalMLP":
        units = ("mlp1_hidden_units", "mlp2_hidden_units")
        return {f"the last of {key}": settings[key][-1] for key in units}
    if not settings.get("use_qkvo", True):
        return {"the width of the item vector": width}
    return {"attention_dim": settings["attention_dim"]}
