"""The page at ``/``: what it asks the service for, and that a browser and a keyboard can use it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_zoo.core.errors import InputError
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.network.app import build_app
from model_zoo.core.serving.network.finding import Titles
from tests.serving.network.conftest import OWNER, make_service, write_folded

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
