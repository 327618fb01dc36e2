"""Which items there are, for a page to choose from, and what they are called."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from model_zoo.core.errors import InputError
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.network.models import Served

TITLE = "title"
MOST = 200


class FindRequest(BaseModel):
    """Which items to list; of several conditions the first that is given counts."""

    model_config = ConfigDict(extra="forbid")
    id: list[str] = Field(
        default_factory=list, max_length=MOST, description="these, as far as they are there"
    )
    sample: bool = Field(False, description="any")
    search: str = Field(
        "", max_length=200, description="the one with this id, then those with it in the title"
    )
    limit: int = Field(20, ge=1, le=MOST, description="how many at most")


class FoundItem(BaseModel):
    """An item that can be scored."""

    id: int | str
    title: str | None = Field(description="where the service was given one")


class FoundItems(BaseModel):
    """Items."""

    items: list[FoundItem]


@dataclass(frozen=True)
class Titles:
    """What items are called.

    Attributes:
        by_id: Title by the id as text.
    """

    by_id: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | None) -> Titles:
        """From a csv file with a head: ids in the first column, titles in ``title``.

        Args:
            path: ``None`` gives no titles.

        Raises:
            InputError: If it cannot be read, has no such columns, or an id twice.
        """
        if path is None:
            return cls()
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                return cls(dict(_titles(path, csv.reader(file, strict=True))))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"{path}: not UTF-8") from None
        except csv.Error as error:
            raise InputError(f"{path}: no csv file: {error}") from None


def _titles(path: Path, rows: Any) -> Iterator[tuple[str, str]]:
    head: list[str] = next(rows, [])
    if TITLE not in head[1:]:
        raise InputError(
            f"{path}: found the columns {', '.join(head) or 'none'}, expected the ids in the first "
            f"and a column {TITLE}"
        )
    place = head.index(TITLE, 1)
    seen: dict[str, int] = {}
    for row in rows:
        if not row:
            continue
        if len(row) != len(head):
            raise InputError(
                f"{path}: line {rows.line_num}: found {len(row)} fields, expected {len(head)}"
            )
        if row[0] in seen:
            raise InputError(
                f"{path}: line {rows.line_num}: found {head[0]} {row[0]} again, first in line "
                f"{seen[row[0]]}; expected each once"
            )
        seen[row[0]] = rows.line_num
        yield row[0], row[place]


def find_items(served: Served, titles: Titles, request: FindRequest) -> FoundItems:
    """The items that a request is for."""
    ids, count = served.file.ids, served.file.folded.num_items
    if request.id:
        found: Iterable[Any] = _known(ids, count, request.id)
    elif request.sample:
        # A copy, as items may be added meanwhile.
        every = range(1, count) if ids.rows is None else list(ids.rows)
        found = random.sample(every, min(request.limit, len(every)))
    else:
        found = _known(ids, count, _matches(ids, count, titles, request.search.strip()))
    return FoundItems(
        items=[
            FoundItem(id=key, title=titles.by_id.get(str(key)))
            for key in islice(found, None if request.id else request.limit)
        ]
    )


def _matches(ids: Ids, count: int, titles: Titles, text: str) -> Iterator[str]:
    """Ids as text, each once, that a search finds, some of which may not be there."""
    yield text
    words = text.casefold().split()
    for key, title in titles.by_id.items():
        if key != text and all(word in title.casefold() for word in words):
            yield key
    if titles.by_id:
        return
    # Without titles there is nothing but ids.
    for key in map(str, range(1, count) if ids.rows is None else list(ids.rows)):
        if key != text and key.startswith(text):
            yield key


def _known(ids: Ids, count: int, texts: Iterable[str]) -> Iterator[Any]:
    for text in texts:
        key = _stored(ids, text)
        if key is not None and (0 < key < count if ids.rows is None else key in ids.rows):
            yield key


def _stored(ids: Ids, text: str) -> Any:
    """The id that a text stands for, of the data set's type; ``None`` if it can be none."""
    if ids.rows is None:
        # More digits than any id has would take long to read.
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
    try:
        return ids.stored([text], "id")[0]
    except InputError:
        return None
