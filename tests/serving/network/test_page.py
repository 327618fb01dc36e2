"""The page at ``/``: what it asks the service for, and that a browser and a keyboard can use it."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn

from model_zoo.core.errors import InputError
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.network.app import build_app
from model_zoo.core.serving.network.finding import Titles
from model_zoo.core.serving.scorer import Scorer
from tests.serving.network import browser
from tests.serving.network.conftest import CONTEXT, OWNER, make_service, write_folded

TITLES = {"1": "The cat <b>sat</b>", "3": "A cat and a dog", "7": "Dogs", "40": "Of no item"}


@asynccontextmanager
async def client_of(path: Path, titles: Titles | None = None) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(make_service(path), OWNER["authorization"].split()[1], titles=titles)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client


def found(path: Path, titles: Titles | None, *queries: str) -> list[list[tuple[Any, Any]]]:
    """Ids and titles of the items that each query gives."""

    async def run() -> list[list[tuple[Any, Any]]]:
        async with client_of(path, titles) as client:
            answers = [await client.get(f"/items?{query}") for query in queries]
        return [[(i["id"], i["title"]) for i in answer.json()["items"]] for answer in answers]

    return asyncio.run(run())


def test_items_are_found_by_id_and_by_title(folded: Path) -> None:
    by_id, by_title, by_words, exact, limited = found(
        folded,
        Titles(TITLES),
        "id=7&id=2&id=7&id=99&id=x&id=0",
        "search=CAT",
        "search=dog+cat",
        "search=3",
        "search=&limit=1",
    )
    assert by_id == [(7, "Dogs"), (2, None), (7, "Dogs")]
    assert by_title == [(1, TITLES["1"]), (3, TITLES["3"])]
    assert by_words == [(3, TITLES["3"])]
    assert exact == [(3, TITLES["3"])]
    assert limited == [(1, TITLES["1"])]  # and no item that is not there


def test_items_without_titles(folded: Path) -> None:
    begin, every, some = found(folded, None, "search=1", "search=", "sample=true&limit=4")
    assert begin == [(1, None), (10, None), (11, None)]
    assert [key for key, _ in every] == list(range(1, 12))
    assert len({key for key, _ in some}) == 4 and {key for key, _ in some} <= set(range(1, 12))


def test_items_with_ids_of_the_data_set(tmp_path: Path) -> None:
    rows = {key: row for row, key in enumerate([1001, 7, 70, *range(20, 28)], start=1)}
    path = write_folded(tmp_path / "raw.folded", ids=Ids("item_id", rows=rows))
    by_id, searched, begun = found(
        path, Titles({"7": "Seven"}), "id=1001&id=2", "search=sev", "search=70"
    )
    assert (by_id, searched, begun) == ([(1001, None)], [(7, "Seven")], [(70, None)])
    assert found(path, None, "search=7") == [[(7, None), (70, None)]]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "#/limit"),
        ("limit=x", "#/limit"),
        ("sample=maybe", "#/sample"),
        ("serach=cat", "#/serach"),
        (f"search={'a' * 201}", "#/search"),
        ("&".join(["id=1"] * 201), "#/id"),
    ],
)
def test_wrong_questions_are_refused_with_their_place(
    folded: Path, query: str, pointer: str
) -> None:
    async def run() -> httpx.Response:
        async with client_of(folded) as client:
            return await client.get(f"/items?{query}")

    answer = asyncio.run(run())
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_the_page_needs_no_other_address(folded: Path) -> None:
    async def run() -> tuple[httpx.Response, dict[str, Any]]:
        async with client_of(folded) as client:
            return await client.get("/"), (await client.get("/openapi.json")).json()

    page, description = asyncio.run(run())
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert re.findall(r"(?:src|href|action)=\"([^\"]*)\"", page.text) == ["data:,"]
    assert "//" not in re.sub(r"^\s*//.*|\s// .*", "", page.text, flags=re.M)
    assert "innerHTML" not in page.text  # a title is text, whatever it holds
    assert "/" not in description["paths"]
    names = [one["name"] for one in description["paths"]["/items"]["get"]["parameters"]]
    assert names == ["id", "sample", "search", "limit"]


def test_titles_are_read(tmp_path: Path) -> None:
    path = tmp_path / "titles.csv"
    path.write_text('\ufeffitem,year,title\n1,2001,"Cats, dogs\nand ""mice"""\n\n2,2002,\n')
    assert Titles.read(path).by_id == {"1": 'Cats, dogs\nand "mice"', "2": ""}
    assert Titles.read(None).by_id == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "found the columns none, expected the ids in the first and a column title"),
        (b"title,item\nCats,1\n", "found the columns title, item, expected"),
        (b"item,title\n1,Cats\n2\n", "line 3: found 1 fields, expected 2"),
        (b"item,title\n1,Cats\n2,Dogs\n1,Mice\n", "line 4: found item 1 again, first in line 2"),
        (b"item,title\n1,\xff\n", "not UTF-8"),
        (b'item,title\n1,"Cats\n', "no csv file: unexpected end of data"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_mistakes_in_titles(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "titles.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path}: {expected}")):
        Titles.read(path)


# --- in a browser ----------------------------------------------------------------------------


@contextmanager
def address(path: Path, titles: Titles) -> Iterator[str]:
    """A server in a thread, on a free port of the loopback."""
    app = build_app(make_service(path), None, titles=titles)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        stop = time.monotonic() + 20
        while not server.started and time.monotonic() < stop:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


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
        wanted = json.dumps([one["id"] for one in right]).replace(" ", "")
        await tab.wait_for(f"JSON.stringify({RANKING[15:-1]}.map(r => r.id)) === '{wanted}'")
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
