"""A browser shows the page at ``/``, at both widths, and a keyboard is enough to use it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model_zoo.core.serving.network.finding import Titles
from model_zoo.core.serving.scorer import Scorer
from tests.serving.network import browser
from tests.serving.network.browser import address
from tests.serving.network.conftest import CONTEXT
from tests.serving.network.test_page import TITLES


def chosen(history: list[int], candidates: list[int]) -> str:
    """The part of the address that holds what is chosen."""
    one = {**CONTEXT, "likes": "3,8", "seen": "", "profile": "0.1,0.2,0.3,0.4,0.5"}
    held = [*(f"history={i}" for i in history), *(f"candidates={i}" for i in candidates)]
    return "#" + "&".join([*held, *(f"context.{name}={value}" for name, value in one.items())])


RANKING = """JSON.stringify([...document.querySelectorAll('#ranking li.ranked')].map(li => ({
  id: JSON.parse(li.dataset.key), p: li.querySelector('.measure output').textContent,
  moved: li.querySelector('.moved').textContent, reasons: li.querySelector('summary').textContent,
  weights: [...li.querySelectorAll('details output')].map(o => o.textContent)})))"""
HISTORY = "[...document.querySelectorAll('#history .name')].map(n => n.textContent).join('|')"


def expected(scorer: Scorer, history: list[int], candidates: list[int]) -> list[dict[str, Any]]:
    """The ranking: ids, probabilities and how many history items have a weight."""
    probability, weight = scorer.score(history, candidates, CONTEXT, explain=True)
    order = torch.sort(probability, descending=True, stable=True).indices.tolist()
    return [
        {
            "id": candidates[i],
            "p": f"{float(probability[i]):.4f}",
            "zeros": int((weight[i] == 0).sum()),
            "used": int((weight[i] != 0).sum()),
        }
        for i in order
    ]


def require_ranking(shown: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    assert [one["id"] for one in shown] == [one["id"] for one in right]
    for one, of_scorer in zip(shown, right, strict=True):
        assert float(one["p"]) == pytest.approx(float(of_scorer["p"]), abs=1.01e-4)
        assert one["weights"].count("0") == of_scorer["zeros"]
        assert len(one["weights"]) == of_scorer["zeros"] + of_scorer["used"]
        if one["weights"]:
            said = str(of_scorer["used"] or "none")
            assert one["reasons"].startswith(f"from {said} of {len(one['weights'])} history item")


chromium = pytest.mark.skipif(
    browser.CHROMIUM is None, reason="no chromium: apt-get install chromium"
)


@chromium
@pytest.mark.slow
def test_a_browser_shows_the_ranking_and_what_it_comes_from(folded: Path) -> None:
    """At both widths; the keyboard is enough to change the history, and the ranking moves."""
    scorer = Scorer.load(folded)
    candidates = [1, 2, 4, 5, 6, 7, 9, 10]

    async def ranking(tab: Any, history: list[int]) -> list[dict[str, Any]]:
        right = expected(scorer, history, candidates)
        # Another history may rank alike, but not one of the test's has as many items.
        wanted = json.dumps([[one["id"], one["zeros"] + one["used"]] for one in right])
        of_row = "r => [r.id, r.weights.length]"
        found = f"JSON.stringify({RANKING[15:-1]}.map({of_row}))"
        await tab.wait_for(f"{found} === '{wanted.replace(' ', '')}'")
        shown = json.loads(await tab.value(RANKING))
        require_ranking(shown, right)
        return shown

    async def run(url: str) -> None:
        async with browser.browsing() as tab:
            for width in (400, 1280):
                await tab.open("about:blank", width)
                await tab.open(url + chosen([3, 8], candidates), width)
                first = await ranking(tab, [3, 8])
                assert await tab.value("document.documentElement.scrollWidth") == width
                assert await tab.value("innerWidth") == width
                assert await tab.value(HISTORY) == "A cat and a dog|Item 8"
            # By title, then by ids, with the keyboard alone.
            await tab.value("document.getElementById('input-history').focus()")
            await tab.write("dogs")
            await tab.wait_for("document.querySelectorAll('#pick-history li button').length === 1")
            await tab.press("ArrowDown")
            await tab.press("Enter")
            await tab.wait_for(f"{HISTORY}.endsWith('Dogs')")
            second = await ranking(tab, [3, 8, 7])
            places = {one["id"]: place for place, one in enumerate(first)}
            for place, one in enumerate(second):
                moved = places[one["id"]] - place
                mark = "" if moved == 0 else f"{'▲' if moved > 0 else '▼'} {abs(moved)}"
                assert one["moved"] == mark
            await tab.write("11, 5")
            await tab.press("Enter")
            await ranking(tab, [3, 8, 7, 11, 5])
            assert "history=11&history=5&" in await tab.value("location.hash")
            await tab.value("document.querySelector('#history button').focus()")
            await tab.press("Enter")
            await ranking(tab, [8, 7, 11, 5])
            assert await tab.value("document.activeElement.ariaLabel") == "Remove Item 8"
            # Titles are text, whatever they hold.
            assert TITLES["1"] in await tab.value("document.getElementById('ranking').textContent")
            assert not await tab.value("document.querySelector('#ranking b b, .name b') !== null")
            assert tab.errors == []

    with address(folded, Titles(TITLES)) as url:
        asyncio.run(run(url))


@chromium
@pytest.mark.slow
def test_a_browser_shows_what_is_wrong(folded: Path) -> None:
    async def run(url: str) -> None:
        async with browser.browsing() as tab:
            await tab.open(url + chosen([3, 8], [1, 2]), 400)
            await tab.wait_for("document.querySelectorAll('#ranking li.ranked').length === 2")
            await tab.value("""(() => {
                const input = [...document.querySelectorAll('#context label')]
                  .find(label => label.textContent === 'age').querySelector('input');
                input.focus(); input.select(); })()""")
            await tab.write("old")
            said = await tab.wait_for(
                "!document.getElementById('trouble').hidden && "
                "document.getElementById('trouble').textContent"
            )
            assert "context 'age'" in said
            assert await tab.value("document.activeElement.ariaInvalid") == "true"
            await tab.value("document.activeElement.select()")
            await tab.write("0.5")
            await tab.wait_for("document.getElementById('trouble').hidden")
            assert await tab.value("document.activeElement.ariaInvalid") == "false"
            await tab.value("document.getElementById('input-candidates').focus()")
            await tab.write("nothing of the kind")
            await tab.press("Enter")
            said = await tab.wait_for("document.getElementById('trouble').textContent")
            assert said == "No item is found for “nothing of the kind”."
            await tab.value("document.getElementById('clear-history').click()")
            await tab.wait_for(
                "document.querySelector('#ranking summary').textContent === 'no history'"
            )

    with address(folded, Titles(TITLES)) as url:
        asyncio.run(run(url))
