"""QIN+'s gate against its formula, and the properties it must have."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model_zoo.QINPlus import kernels
from model_zoo.QINPlus.layers import GatedTargetAttention
from tests import oracles


class Drawn(NamedTuple):
    """A layer, and rows of places in ``items``, oldest first, some of them empty."""

    attention: GatedTargetAttention
    target: Tensor
    items: Tensor
    histories: list[list[int]]

    def packed(self) -> Tensor:
        index = [item for history in self.histories for item in history]
        lengths = torch.tensor([len(history) for history in self.histories])
        rows = torch.arange(len(lengths)).repeat_interleave(lengths)
        index = torch.tensor(index, dtype=torch.long)
        return self.attention.packed(self.target, self.items, rows, index)

    def padded(self, *, content: float = 0.0, more: int = 0) -> Tensor:
        """By ``forward``, with ``more`` slots than the longest history needs."""
        slots = max(map(len, self.histories)) + more
        rows, masks = [], []
        for history in self.histories:
            real = self.items[torch.tensor(history[::-1], dtype=torch.long)]
            padding = torch.full((slots - len(history), real.shape[1]), content, dtype=real.dtype)
            rows.append(torch.cat([real, padding]))
            masks.append(torch.arange(slots) < len(history))
        return self.attention(self.target, torch.stack(rows), torch.stack(masks))

    def oracle(self) -> Tensor:
        rows = []
        for target, history in zip(self.target, self.histories, strict=True):
            items = [self.items[i] for i in history]
            rows.append(oracles.gated_interest(self.attention, target, items))
        return torch.stack(rows)

    def gradients(self, output: Tensor) -> list[Tensor]:
        """Of a weighted sum, with zeros for what has no part in it."""
        factor = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        wanted = [self.target, self.items, *self.attention.parameters()]
        if not output.requires_grad:  # the formula of rows without a history
            return [torch.zeros_like(w) for w in wanted]
        found = torch.autograd.grad((output * factor).sum(), wanted, allow_unused=True)
        return [torch.zeros_like(w) if f is None else f for f, w in zip(found, wanted, strict=True)]


def draw(seed: int, *, rows: int = 6, slots: int = 7, dim: int = 3, **switches: Any) -> Drawn:
    torch.manual_seed(seed)
    attention = GatedTargetAttention(dim, **({"units": 4, "max_len": 3} | switches)).double()
    for name, parameter in attention.named_parameters():
        if name == "of_place" or name.endswith("bias"):
            nn.init.normal_(parameter)
    lengths = torch.randint(0, slots + 1, (rows,)) * (torch.rand(rows) < 0.8)
    return Drawn(
        attention,
        torch.randn(rows, dim, dtype=torch.float64, requires_grad=True),
        torch.randn(5, dim, dtype=torch.float64, requires_grad=True),
        [torch.randint(0, 5, (int(n),)).tolist() for n in lengths],
    )


SWITCHES = {
    "order": st.booleans(),
    "sparse": st.booleans(),
    "length_power": st.sampled_from([0.0, 0.5, 1.0]),
    "max_len": st.integers(1, 9),
    "units": st.integers(1, 6),
}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 5),
    slots=st.integers(0, 7),
    dim=st.integers(1, 6),
    switches=st.fixed_dictionaries(SWITCHES),
)
def test_every_form_equals_the_formula(
    seed: int, rows: int, slots: int, dim: int, switches: dict[str, Any]
) -> None:
    """Packed, by a CPU's kernels in pieces and elsewhere, and padded: values and gradients."""
    drawn = draw(seed, rows=rows, slots=slots, dim=dim, **switches)
    expected = drawn.oracle()
    gradients = drawn.gradients(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "PAIRS", 4)
        outputs = {"packed": drawn.packed(), "padded": drawn.padded()}
        for name, output in outputs.items():
            torch.testing.assert_close(output, expected, msg=name)
            for got, wanted in zip(drawn.gradients(output), gradients, strict=True):
                torch.testing.assert_close(got, wanted, msg=name)
        patch.setattr("torch.compiler.is_compiling", lambda: True)
        output = drawn.packed()
        torch.testing.assert_close(output, expected)
        for got, wanted in zip(drawn.gradients(output), gradients, strict=True):
            torch.testing.assert_close(got, wanted)


def test_some_weights_are_zero_and_some_are_not() -> None:
    """So the comparison with the formula is of both; without the ReLU weights are negative too."""
    weights: dict[bool, list[Tensor]] = {True: [], False: []}
    for seed in range(40):
        for sparse, found in weights.items():
            drawn = draw(seed, sparse=sparse)._replace(histories=[[0]] * 6)
            found.append(drawn.packed() / drawn.items[0])
    sparse, dense = (torch.cat(found) for found in weights.values())
    assert 0.2 < (sparse == 0).double().mean() < 0.8
    torch.testing.assert_close(sparse, dense.clamp(min=0))


@pytest.mark.parametrize("order", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_an_empty_history_gives_zero(order: bool, sparse: bool) -> None:
    drawn = draw(2, order=order, sparse=sparse)._replace(histories=[[], [1, 2], [], [], [3], []])
    for output in (drawn.packed(), drawn.padded()):
        empty = (output == 0).all(dim=1)
        assert empty[[0, 2, 3, 5]].all()
    nobody = drawn._replace(histories=[[]] * 6)
    for output in (nobody.packed(), nobody.padded(), nobody.padded(more=3)):
        assert output.shape == (6, 3) and not output.any()
        assert not any(gradient.any() for gradient in nobody.gradients(output))


def test_the_content_of_padding_does_not_matter() -> None:
    drawn = draw(3)
    expected = drawn.padded()
    assert torch.equal(drawn.padded(content=1e6), expected)
    torch.testing.assert_close(drawn.padded(content=-1e6, more=4), expected)


@pytest.mark.parametrize("sparse", [True, False])
def test_the_order_matters_only_with_order(sparse: bool) -> None:
    for order in (True, False):
        drawn = draw(4, order=order, sparse=sparse)._replace(histories=[[0, 1, 2, 3]] * 6)
        turned = drawn._replace(histories=[[3, 2, 1, 0]] * 6)
        for method in ("packed", "padded"):
            one, other = (getattr(d, method)() for d in (drawn, turned))
            assert torch.allclose(one, other) == (not order)


def test_places_beyond_the_last_share_its_vector() -> None:
    """Three places: what is older than the two newest items may be in any order."""
    drawn = draw(5, max_len=3)._replace(histories=[[0, 1, 2, 3, 4]] * 6)
    older = drawn._replace(histories=[[2, 0, 1, 3, 4]] * 6)
    newer = drawn._replace(histories=[[0, 1, 3, 2, 4]] * 6)
    torch.testing.assert_close(older.packed(), drawn.packed())
    assert not torch.allclose(newer.packed(), drawn.packed())


def test_the_newest_item_has_the_first_place() -> None:
    drawn = draw(6, max_len=9, length_power=0.0, sparse=False)
    drawn.attention.of_place.data[0] += 100
    before = drawn._replace(histories=[[0, 1]] * 6).packed()
    drawn.attention.of_place.data[0] -= 100
    moved = before - drawn._replace(histories=[[0, 1]] * 6).packed()
    factor = moved / drawn.items[1]  # item 1 is the newest; only its weight has changed
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    assert (factor.abs() > 1).all()


@pytest.mark.parametrize(("power", "factor"), [(0.0, 2.0), (0.5, 2**0.5), (1.0, 1.0)])
def test_the_length_counts_by_its_power(power: float, factor: float) -> None:
    drawn = draw(7, order=False, length_power=power)
    twice = drawn._replace(histories=[history * 2 for history in drawn.histories])
    for method in ("packed", "padded"):
        once, doubled = getattr(drawn, method)(), getattr(twice, method)()
        torch.testing.assert_close(doubled, factor * once)
        assert once.any()


def test_rows_do_not_see_each_other() -> None:
    drawn = draw(8)
    together = drawn.packed()
    for i, history in enumerate(drawn.histories):
        alone = drawn._replace(target=drawn.target[i : i + 1], histories=[history])
        torch.testing.assert_close(alone.packed(), together[i : i + 1])


def test_without_a_mask_all_items_are_real() -> None:
    drawn = draw(9)
    history = drawn.items[:4].expand(6, 4, 3)
    mask = torch.ones(6, 4, dtype=torch.bool)
    assert torch.equal(
        drawn.attention(drawn.target, history), drawn.attention(drawn.target, history, mask)
    )


@pytest.mark.parametrize("broken", ["items", "target", "of_history"])
@pytest.mark.parametrize("sparse", [True, False])
def test_what_is_no_number_reaches_the_output(broken: str, sparse: bool) -> None:
    drawn = draw(10, sparse=sparse)._replace(histories=[[0, 1], [0], [1, 0], [0], [0], [0]])
    if broken == "of_history":
        drawn.attention.of_history.weight.data[:] = float("nan")
    else:
        getattr(drawn, broken).data[:, 0] = float("nan")
    assert drawn.packed().isnan().any(dim=1).all()


@pytest.mark.parametrize("order", [True, False])
def test_autocast_sums_in_float32(order: bool) -> None:
    drawn = draw(11, rows=300, order=order, sparse=False)
    attention = drawn.attention.float()
    target, items = (x.detach().float().requires_grad_() for x in (drawn.target, drawn.items))
    drawn = Drawn(attention, target, items, drawn.histories)
    exact = drawn.packed()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = drawn.packed()
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.05)
    for got, wanted in zip(drawn.gradients(rounded), drawn.gradients(exact), strict=True):
        assert got.dtype == torch.float32
        assert (got - wanted).norm() <= 0.1 * wanted.norm()


def test_parameters_by_name_and_shape() -> None:
    shapes = {
        "of_place": (7, 5),
        "of_target.weight": (5, 4),
        "of_target.bias": (5,),
        "of_history.weight": (5, 4),
        "of_product.weight": (5, 4),
        "weight.weight": (1, 5),
        "weight.bias": (1,),
    }
    attention = GatedTargetAttention(4, units=5, max_len=7)
    assert {name: tuple(p.shape) for name, p in attention.state_dict().items()} == shapes
    without = GatedTargetAttention(4, units=5, max_len=7, order=False)
    assert list(without.state_dict()) == list(shapes)[1:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim=0, units=32, max_len=64"),
        ({"units": 0}, "dim=3, units=0, max_len=64"),
        ({"max_len": 0}, "dim=3, units=32, max_len=0"),
        ({"length_power": -0.1}, r"length_power must be in \[0, 1\], got -0.1"),
        ({"length_power": 1.5}, r"length_power must be in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GatedTargetAttention(**({"dim": 3} | arguments))


def test_inputs_that_do_not_fit_are_named() -> None:
    attention = GatedTargetAttention(3)
    target, history = torch.zeros(2, 3), torch.zeros(2, 4, 3)
    for shape in ((2, 4, 2), (3, 4, 3), (2, 3), (2, 4, 3, 1)):
        message = f"history must be (B, L, 3) with the B of target (2, 3), got {shape}"
        with pytest.raises(ValueError, match=re.escape(message)):
            attention(target, torch.zeros(shape))
    with pytest.raises(ValueError, match=r"mask must be \(2, 4\) like the history, got \(2, 3\)"):
        attention(target, history, torch.ones(2, 3))
    rows = torch.zeros(5, dtype=torch.long)
    with pytest.raises(ValueError, match=r"index must be \(5,\).*got \(4,\) and \(4, 3\)"):
        attention.packed(target, history[0], rows, rows[:4])
    with pytest.raises(ValueError, match=r"items \(U, 3\), got \(5,\) and \(4, 2\)"):
        attention.packed(target, history[0, :, :2], rows, rows)
    for wrong in (torch.zeros(2, 2), torch.zeros(3)):
        with pytest.raises(ValueError, match=rf"target must be \(B, 3\), got \({len(wrong)},"):
            attention(wrong, history)
        with pytest.raises(ValueError, match=rf"target must be \(B, 3\), got \({len(wrong)},"):
            attention.packed(wrong, history[0], rows, rows)
