"""What happens to files: broken bytes, odd cells, other types, missing and doubled parts."""

from __future__ import annotations

from random import Random
from typing import Any

import polars as pl
import pyarrow as pa

ODD_TEXTS = [
    "", " ", "nan", "NaN", "None", "null", "NA", "...", "-1", "0", "7.0", "7.5", "1e3", "1e999",
    "True", "np.int64(7)", "99999999999999999999", "[", "[]", "()", "['i1', 'i2']", '["i1"]',
    "[i1, nan]", "array(['i1'])", "i1^i2", "i1|i2", "i1;i2", "i1 i2", "i1^", "^", "é", "\u200b",
    "~", "$HOME", "*", "a: b", "- a", "# a", "{", "!!python/name:os.system", "&a", "*a", "%", "@",
]  # fmt: skip
ODD_BYTES = [b'"', b"'", b",", b"\n", b"\r", b"\0", b"\xff", b"\xc3", b"\t", b";", b"[", b"]", b":"]
ODD_BYTES += [b"\xef\xbb\xbf", b"#", b"  ", b"\xe2\x80\xa8", b"^", b"|", b"9" * 30]


def broken_bytes(content: bytes, random: Random) -> bytes:
    """One change that knows nothing of the format."""
    place = random.randrange(len(content) + 1)
    kind = random.randrange(5)
    if kind == 0:
        return content[:place]  # cut off
    if kind == 1:
        return content[:place] + random.choice(ODD_BYTES) + content[place:]
    if kind == 2:
        return content[:place] + content[place + random.randint(1, 8) :]
    if kind == 3:
        return random.choice([b"\xef\xbb\xbf", b"\n", b" ", b"\xff\xfe"]) + content
    flipped = bytearray(content)
    if place < len(flipped):
        flipped[place] ^= 1 << random.randrange(8)
    return bytes(flipped)


def odd_lines(lines: list[str], random: Random) -> list[str]:
    """Lines doubled, lost, swapped, shifted."""
    lines, at = list(lines), random.randrange(len(lines))
    kind = random.randrange(5)
    if kind == 0:
        lines.insert(at, lines[at])
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        other = random.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] = random.choice(["  ", "\t", "- "]) + lines[at]
    else:
        lines.insert(at, random.choice(["", "   ", "# a comment", "---"]))
    return lines


def odd_yaml(content: Any, random: Random) -> tuple[Any, str]:
    """One key renamed, lost, doubled under another name, or one value replaced.

    Returns:
        The changed content, and the last key on the way to the change.
    """
    if isinstance(content, dict) and content:
        key = random.choice(list(content))
        deeper = isinstance(content[key], (dict, list)) and content[key] and random.random() < 0.7
        if deeper:
            inner, name = odd_yaml(content[key], random)
            return {**content, key: inner}, name or str(key)
        kind = random.randrange(4)
        if kind == 0:
            renamed = _misspelt(str(key), random)
            return {renamed if k == key else k: v for k, v in content.items()}, str(key)
        if kind == 1:
            return {k: v for k, v in content.items() if k != key}, str(key)
        return {**content, key: odd_value(content[key], random)}, str(key)
    if isinstance(content, list) and content:
        at = random.randrange(len(content))
        if random.random() < 0.8:
            inner, name = odd_yaml(content[at], random)
            return [*content[:at], inner, *content[at + 1 :]], name
        return [*content, content[at]], ""
    return odd_value(content, random), ""


def odd_value(value: Any, random: Random) -> Any:
    """A value of another type, size or sign."""
    numbers = [0, 1, 2, 3, -1, 2**40, 0.5, 1e-9, float("nan"), float("inf")]
    others = [None, True, [], {}, [value], {"a": 1}, *numbers, *ODD_TEXTS]
    if isinstance(value, str) and value:
        others += [value.upper(), f" {value}", _misspelt(value, random), f"{value}/../{value}"]
    return random.choice(others)


def _misspelt(word: str, random: Random) -> str:
    at = random.randrange(len(word))
    return random.choice([word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], word + "s"])


def odd_table(frame: pl.DataFrame, random: Random) -> tuple[pa.Table, bool]:
    """A parquet table of another form, or with other values.

    Returns:
        The table, and whether its values are still the same.
    """
    name = random.choice(frame.columns)
    table = frame.to_arrow()
    at = table.column_names.index(name)
    kind = random.randrange(9)
    if kind == 0:
        return table.drop_columns([name]), False
    if kind == 1:
        renamed = [f"{n}s" if n == name else n for n in table.column_names]
        return table.rename_columns(renamed), False
    if kind == 2:  # the same in another order, and with columns that nobody asked for
        names = list(table.column_names)
        random.shuffle(names)
        extra = pa.array(range(len(table)))
        return table.select(names).append_column(random.choice(["row", "x", ""]), extra), True
    if kind == 3:
        return _as_other_type(table, at, random)
    if kind == 4:
        return table.slice(0, random.choice([0, 1, len(table) - 1])), False
    if kind == 5:
        rows = [random.randrange(len(table)) for _ in range(random.randint(1, 3))]
        return pa.concat_tables([table, table.take(rows)]), False
    if kind == 6:
        holes = pa.array([random.random() < 0.8 for _ in range(len(table))])
        column = table.column(at).combine_chunks()
        filled = pa.compute.if_else(holes, column, pa.scalar(None, column.type))
        return table.set_column(at, name, filled), False
    values = frame[name].to_list()
    values[random.randrange(len(values))] = odd_value(values[0], random)
    try:
        return table.set_column(at, name, pa.array(values)), False
    except (pa.ArrowException, OverflowError):  # no one type holds both
        return table.set_column(at, name, pa.array([str(v) for v in values])), False


def _as_other_type(table: pa.Table, at: int, random: Random) -> tuple[pa.Table, bool]:
    field = table.schema.field(at)
    kinds: list[pa.DataType] = []
    if pa.types.is_integer(field.type):
        kinds = [pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint64(), pa.float64()]
    elif pa.types.is_floating(field.type):
        kinds = [pa.float32(), pa.int8(), pa.int64(), pa.bool_()]
    elif pa.types.is_large_string(field.type) or pa.types.is_string(field.type):
        kinds = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
    elif pa.types.is_large_list(field.type) or pa.types.is_list(field.type):
        kinds = [pa.list_(field.type.value_type), pa.large_list(field.type.value_type)]
    other = random.choice(kinds)
    try:
        column = table.column(at).cast(other)
    except pa.ArrowException:  # labels that are no whole numbers, ...
        return table, True
    return table.set_column(at, field.name, column), True
