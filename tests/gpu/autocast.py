"""Mixed precision on the stand-in: the operators that CUDA's autocast casts.

torch has these lists in C++, for its own devices only. Source: "Autocast Op Reference" of
torch's documentation, the parts on CUDA; of operators that torch has in Python (cells of
recurrent networks, ``multi_dot``) the parts are cast. Without the lists, bf16 on the stand-in
would be float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

KEY = "AutocastPrivateUse1"
LOWER = """
    addbmm addmm addmv addr baddbmm bmm chain_matmul conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d convolution einsum linear matmul mm mv prelu
    scaled_dot_product_attention
"""
FLOAT32 = """
    acos asin binary_cross_entropy_with_logits cdist cosh cosine_embedding_loss
    cosine_similarity cross_entropy_loss cumprod cumsum dist erfinv exp expm1 group_norm
    hinge_embedding_loss kl_div l1_loss layer_norm log log10 log1p log2 log_softmax
    margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss nll_loss norm pdist
    poisson_nll_loss pow prod reciprocal renorm rsqrt sinh smooth_l1_loss soft_margin_loss
    softmax softplus sum tan triplet_margin_loss
"""
WIDEST = "addcdiv addcmul atan2 bilinear cat cross dot index_put scatter_add stack tensordot"
REFUSED = "binary_cross_entropy"

_kept: list[torch.library.Library] = []  # a library takes its kernels away with it


def cast_as_on_cuda() -> None:
    """Give the stand-in CUDA's autocast."""
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(torch.library.fallthrough_kernel, KEY)
    aten = torch.library.Library("aten", "IMPL")
    _kept.extend([everything, aten])
    rules: dict[str, Callable[[list[Tensor]], torch.dtype]] = {
        **dict.fromkeys(LOWER.split(), lambda _: torch.get_autocast_dtype("standin")),
        **dict.fromkeys(FLOAT32.split(), lambda _: torch.float32),
        **dict.fromkeys(WIDEST.split(), _widest),
        **dict.fromkeys(REFUSED.split(), _refuse),
    }
    for name, rule in rules.items():
        packet = getattr(torch.ops.aten, name)
        for function in (getattr(packet, overload) for overload in packet.overloads()):
            # What writes into a given tensor keeps that tensor's precision.
            if not any(argument.is_out for argument in function._schema.arguments):
                aten.impl(function.name().removeprefix("aten::"), _casting(function, rule), KEY)


def _casting(function: Any, rule: Callable[[list[Tensor]], torch.dtype]) -> Callable[..., Any]:
    def cast(value: Any, dtype: torch.dtype) -> Any:
        return value.to(dtype) if _is_castable(value) else value

    def kernel(*args: Any, **kwargs: Any) -> Any:
        key = torch._C.DispatchKeySet(torch._C._dispatch_key_parse(KEY))
        with torch._C._ExcludeDispatchKeyGuard(key):
            floats = [leaf for leaf in tree_leaves((args, kwargs)) if _is_castable(leaf)]
            if not floats:
                return function(*args, **kwargs)
            dtype = rule(floats)
            args, kwargs = tree_map(lambda leaf: cast(leaf, dtype), (args, kwargs))
            return function(*args, **kwargs)

    return kernel


def _is_castable(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.device.type == "standin"
        and value.is_floating_point()
        and value.dtype != torch.float64
    )


def _widest(floats: list[Tensor]) -> torch.dtype:
    wide = any(tensor.dtype == torch.float32 for tensor in floats)
    return torch.float32 if wide else floats[0].dtype


def _refuse(_: list[Tensor]) -> torch.dtype:
    raise RuntimeError("binary_cross_entropy is unsafe under autocast, and CUDA refuses it")
