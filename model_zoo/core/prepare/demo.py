"""MicroLens_demo: a generated data set whose click probabilities, so its best AUC, are known.

The files and columns are those of MicroLens_1M_x1, so every command that runs on the
challenge data runs on this set. One file is added: ``oracle.parquet`` with the true click
probability of every row, and the labels that the test split withholds.

Click model
    Items: 16 topics have their centres ``c`` at both ends of 8 random orthogonal axes of R^8;
    item ``i`` has the latent ``z_i = unit(c_topic(i) + 0.2 n)``, ``n ~ N(0, I_8)``. A model sees
    of it up to five tags (mostly of the topic) and ``item_emb_d128 = A z_i + 0.5 n'`` with
    one standard normal ``A`` (128 x 8) for all items, so its entries have scale 1.

    Users: two or three topics of interest. Nine of ten history items come from these, drawn
    by popularity within the topic; half of the targets do too. A quarter of the items is
    *cold*: never in a history, target of 1 % of the train rows but 20 % of the others, so
    their id embeddings learn little while their vectors tell as much as any other's.

    Row: for target ``t``, history ``H``, ``a = (likes_level - 5) / 2.5`` and
    ``v = (views_level - 5) / 2.5`` (the item's own level plus noise of the row),
    ``p = sqrt(8) z_t[0]``, ``r = sqrt(8) z_t[1]``::

        s     = sum_{l in H} max(0, z_l . z_t - 0.4)       rectified target attention
        m     = 1 - 2 exp(-s / 0.4)                        saturates: in [-1, 1)
        logit = -0.9 + 2.4 m + 0.9 a v + 0.8 a p + 0.9 m v + 0.2 a + 0.2 r
        label ~ Bernoulli(sigmoid(logit))

    The match needs the history, its fine part attention; the products need quadratic features;
    the last two terms are weak: a linear model of the target alone stays far from the best AUC.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from model_zoo.core.errors import InputError
from model_zoo.core.files import require_writable, through_link, write_aside
from model_zoo.core.prepare.arrow_tables import lists_of

# Vocabulary sizes, for a dataset YAML. Id 0 of items and tags is padding and is counted.
NUM_ITEMS = 2_000
NUM_TAGS = 301
NUM_LEVELS = 11
EMBEDDING_WIDTH = 128

_LATENT = 8
_TOPICS = 2 * _LATENT
_TAGS_PER_TOPIC = 16
_GENERIC_TAGS = NUM_TAGS - 1 - _TOPICS * _TAGS_PER_TOPIC
_MIN_ITEMS = 4 * _TOPICS + 1  # every topic has a cold item, and padding
_COLD_SHARE = {"train": 0.01, "valid": 0.2, "test": 0.2}
_CHUNK_ROWS = 50_000  # 40 MB of padded histories

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]
_Random = np.random.Generator

_INT, _INTS, _FLOAT = pa.int64(), pa.list_(pa.int64()), pa.float64()
_FEATURES = {"user_id": _INT, "item_seq": _INTS, "item_id": _INT}
_FEATURES |= {"likes_level": _INT, "views_level": _INT}
_ORACLE = {"split": pa.string(), "row": _INT, "probability": _FLOAT, "label": _FLOAT}
_ITEM_INFO = {"item_id": _INT, "item_tags": _INTS, "item_emb_d128": pa.list_(pa.float32())}
# Files get their final names in the reverse of this order.
_SCHEMAS = {
    "train": pa.schema(_FEATURES | {"label": _FLOAT}),
    "valid": pa.schema(_FEATURES | {"label": _FLOAT}),
    "test": pa.schema(_FEATURES),
    "oracle": pa.schema(_ORACLE),
    "item_info": pa.schema(_ITEM_INFO),
}


def generate_demo(
    folder: str | os.PathLike[str],
    *,
    seed: int = 2025,
    num_users: int = 12_000,
    num_items: int = NUM_ITEMS,
    train_rows: int = 100_000,
    valid_rows: int = 10_000,
    test_rows: int = 10_000,
    seq_len: int = 100,
    progress: bool = True,
) -> None:
    """Write the five files of a demo set into ``folder``; equal arguments, equal values.

    ``train.parquet`` gets its final name last: where it exists, the set is complete. Memory
    does not grow with the number of rows, but with users (about 100 bytes each) and items.

    Args:
        folder: Created if needed; files of an earlier set are replaced.
        seed: Any integer >= 0.
        num_users: Users, numbered from 1; each has one history, shared by all its rows.
        num_items: Rows of item_info.parquet, padding included (the vocabulary size).
        train_rows: Rows of train.parquet; likewise ``valid_rows`` and ``test_rows``.
        seq_len: Length of ``item_seq``; longer histories are cut to it.
        progress: Show a progress bar, if standard output is a terminal.

    Raises:
        InputError: An argument is below its minimum; the message lists all such arguments.
    """
    rows = {"train": train_rows, "valid": valid_rows, "test": test_rows}
    given = {"seed": seed, "num_users": num_users, "num_items": num_items, "seq_len": seq_len}
    given |= {f"{split}_rows": count for split, count in rows.items()}
    minimum = dict.fromkeys(given, 1) | {"seed": 0, "num_items": _MIN_ITEMS}
    if problems := [
        f"generate_demo: {name} is {value}, expected at least {minimum[name]}"
        for name, value in given.items()
        if value < minimum[name]
    ]:
        raise InputError(problems)

    target = Path(folder)
    require_writable(target / f"{name}.parquet" for name in _SCHEMAS)
    # One stream per part: the size of one split does not change the values of another.
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5)]
    random = dict(zip(("items", "users", *rows), streams, strict=True))
    items = _draw_items(num_items - 1, random["items"])
    users = _draw_users(num_users, seq_len, items, random["users"])
    quiet = not (progress and sys.stdout.isatty())
    with ExitStack() as stack:
        # The stack closes in reverse: nothing is final before all rows are written,
        # and train.parquet becomes final last.
        enter = stack.enter_context
        writers = {}
        for name, schema in _SCHEMAS.items():
            partial = enter(write_aside(target / f"{name}.parquet"))
            writers[name] = enter(pq.ParquetWriter(partial, schema, compression="zstd"))
        info = [np.arange(num_items), lists_of(items.tags), lists_of(items.vector)]
        writers["item_info"].write_table(pa.table(info, schema=_SCHEMAS["item_info"]))
        bar = enter(tqdm(total=sum(rows.values()), unit=" rows", disable=quiet))
        for split, count in rows.items():
            for start in range(0, count, _CHUNK_ROWS):
                size = min(_CHUNK_ROWS, count - start)
                columns = _draw_rows(size, _COLD_SHARE[split], items, users, random[split])
                columns |= {"split": np.full(size, split), "row": np.arange(start, start + size)}
                for name in (split, "oracle"):
                    chosen = {column: columns[column] for column in _SCHEMAS[name].names}
                    writers[name].write_table(pa.table(chosen, schema=_SCHEMAS[name]))
                bar.update(size)
        # An earlier set must not look complete while its files are being replaced.
        through_link(target / "train.parquet").unlink(missing_ok=True)


@dataclass(frozen=True)
class _Sampler:
    """Draws an item of a given topic, with probability proportional to its weight."""

    ids: _Ints  # items, topic after topic
    ends: _Floats  # running sum of their weights
    bounds: _Floats  # (K + 1,) the same sum at the borders of the topics

    @classmethod
    def build(cls, ids: _Ints, topic: _Ints, weight: _Floats) -> _Sampler:
        order = np.argsort(topic, kind="stable")
        ends = np.cumsum(weight[order])
        last = np.cumsum(np.bincount(topic, minlength=_TOPICS)) - 1
        return cls(ids[order], ends, np.concatenate([[0.0], ends[last]]))

    def draw(self, topic: _Ints, random: _Random) -> _Ints:
        low, high = self.bounds[topic], self.bounds[topic + 1]
        point = low + (high - low) * random.random(len(topic))
        # Rounding may lift a point to the very end of the last item.
        index = np.searchsorted(self.ends, point, side="right").clip(max=len(self.ids) - 1)
        return np.take(self.ids, index)


@dataclass(frozen=True)
class _Items:
    """Row 0 of every array is padding."""

    latent: _Floats  # (I, 8)
    level: _Floats  # (I, 2) likes and views, standard scale
    tags: _Ints  # (I, 5)
    vector: npt.NDArray[np.float32]  # (I, 128)
    warm: _Sampler
    cold: _Sampler


@dataclass(frozen=True)
class _Users:
    """Histories are stored end to end, without padding."""

    interests: _Ints  # (U, 3); a user with two has the first one twice
    history: _Ints  # all items, user after user, oldest first
    start: _Ints  # (U,) first position in history
    length: _Ints  # (U,)
    seq_len: int  # of the padded column item_seq


def _draw_items(count: int, random: _Random) -> _Items:
    """Draw ``count`` items, numbered from 1."""
    order = random.permutation(count)
    topic = order % _TOPICS
    cold = order // _TOPICS % 4 == 3
    axes, _ = np.linalg.qr(random.standard_normal((_LATENT, _LATENT)))
    centre = np.concatenate([axes, -axes])
    z = centre[topic] + 0.2 * random.standard_normal((count, _LATENT))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    level = random.standard_normal((count, 2)) @ np.array([[0.9, 0.0], [0.4, 1.0]])

    own = 1 + topic[:, None] * _TAGS_PER_TOPIC + _distinct(3, _TAGS_PER_TOPIC, count, random)
    generic = 1 + _TOPICS * _TAGS_PER_TOPIC + _distinct(2, _GENERIC_TAGS, count, random)
    tags = np.concatenate([generic, own], axis=1)
    # The last topic tag always stays; sorting by "is there" moves padding to the left.
    tags[:, :-1] *= random.random((count, 4)) < 0.5
    order = np.argsort(tags > 0, axis=1, kind="stable")
    tags = np.pad(np.take_along_axis(tags, order, axis=1), ((1, 0), (0, 0)))

    basis = random.standard_normal((_LATENT, EMBEDDING_WIDTH))
    vector = z @ basis + 0.5 * random.standard_normal((count, EMBEDDING_WIDTH))
    weight = (1.0 + random.permutation(count)) ** -0.8
    ids = np.arange(1, count + 1)
    warm = _Sampler.build(ids[~cold], topic[~cold], weight[~cold])
    cold_sampler = _Sampler.build(ids[cold], topic[cold], np.ones(int(cold.sum())))
    z, level, vector = (np.pad(x, ((1, 0), (0, 0))) for x in (z, level, vector))
    return _Items(z, level, tags, vector.astype(np.float32), warm, cold_sampler)


def _draw_users(count: int, seq_len: int, items: _Items, random: _Random) -> _Users:
    """Draw interests and histories.

    Lengths are log-logistic, ``6 (q / (1 - q))^(1 / 2.5)`` for uniform ``q``, rounded: median 6,
    quartiles 4 and 9, mean about 8, one in a thousand beyond 100.
    """
    interests = _distinct(3, _TOPICS, count, random)
    two = random.random(count) < 0.5
    interests[two, 2] = interests[two, 0]
    q = random.random(count)
    length = np.rint(6 * (q / (1 - q)) ** 0.4).clip(1, seq_len).astype(np.int64)
    owner = np.repeat(np.arange(count), length)
    topic = _draw_topics(interests, owner, 0.9, random)
    return _Users(
        interests, items.warm.draw(topic, random), np.cumsum(length) - length, length, seq_len
    )


def _distinct(picks: int, choices: int, count: int, random: _Random) -> _Ints:
    """``count`` rows of ``picks`` different numbers below ``choices``."""
    shuffled = random.permuted(np.tile(np.arange(choices, dtype=np.int16), (count, 1)), axis=1)
    return shuffled[:, :picks].astype(np.int64)


def _draw_topics(interests: _Ints, user: _Ints, share: float, random: _Random) -> _Ints:
    """For each user index one of its interests, with probability ``share``, else any topic."""
    count = len(user)
    own = interests[user, random.integers(interests.shape[1], size=count)]
    return np.where(random.random(count) < share, own, random.integers(_TOPICS, size=count))


def _draw_rows(
    count: int, cold_share: float, items: _Items, users: _Users, random: _Random
) -> dict[str, object]:
    """Draw users, targets, levels and clicks (formulas at the top of the file) as columns."""
    user = random.integers(len(users.length), size=count)
    topic = _draw_topics(users.interests, user, 0.5, random)
    is_cold = random.random(count) < cold_share
    item = np.where(is_cold, items.cold.draw(topic, random), items.warm.draw(topic, random))
    noisy = 0.8 * items.level[item] + 0.6 * random.standard_normal((count, 2))
    level = np.rint(5 + 2.5 * noisy).clip(0, NUM_LEVELS - 1).astype(np.int64)

    # The histories of all rows end to end: element n belongs to row[n].
    length = users.length[user]
    row = np.repeat(np.arange(count), length)
    within = np.arange(len(row)) - (np.cumsum(length) - length)[row]
    history = users.history[users.start[user][row] + within]
    z = items.latent[item]
    similar = np.einsum("nk,nk->n", items.latent[history], z[row])
    s = np.bincount(row, weights=np.maximum(similar - 0.4, 0), minlength=count)
    m = 1 - 2 * np.exp(-s / 0.4)
    a, v = ((level - 5) / 2.5).T
    p, r = np.sqrt(_LATENT) * z[:, :2].T
    logit = -0.9 + 2.4 * m + 0.9 * a * v + 0.8 * a * p + 0.9 * m * v + 0.2 * a + 0.2 * r
    probability = 1 / (1 + np.exp(-logit))

    padded = np.zeros((count, users.seq_len), dtype=np.int64)
    padded[row, users.seq_len - length[row] + within] = history
    return {
        "user_id": user + 1,
        "item_seq": lists_of(padded),
        "item_id": item,
        "likes_level": level[:, 0],
        "views_level": level[:, 1],
        "label": (random.random(count) < probability).astype(np.float64),
        "probability": probability,
    }
