"""Find pairs that are copies of each other, exact or nearly so, among a hundred thousand rows in seconds."""

import itertools
import re
from collections import defaultdict
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import pandas as pd

from src_py.pairs.load import folded_words

NEAR = 0.8  # Jaccard similarity of the shingles of two pairs from which they are near copies
# Of the MinHash signature: two pairs with a similarity of 0.8 share a band in 9,996 of 10,000 cases.
BANDS, BAND = 20, 5
_LIKELY = 0.6  # share of the signature that must agree before shingles are compared: five standard errors below NEAR
_NEIGHBOURS = 20  # of a row with the same band: a cluster of thousands of copies would take the square of its size
_CHUNK = 2000  # rows whose words are held in memory at a time
_NO_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


class Copies(NamedTuple):
    """Which rows are copies of rows before them.

    Attributes:
        exact: (rows, groups) True where a row before this one in that group has the same prompt and the same two
            answers, in either order, as `folded_words` has them.
        near: the same for pairs with a similarity of `NEAR` or more that are not exact copies.
    """

    exact: np.ndarray
    near: np.ndarray


def find_copies(tables: list[pd.DataFrame], groups: np.ndarray, first: int, seed: int = 0) -> Copies:
    """Compare every row from number `first` on with all rows before it.

    Two pairs are compared by the set of their shingles (three words in a row, of the prompt and of both answers, with
    marks at their ends). MinHash (Broder 1997) with banding proposes candidates; their similarity is then computed.

    Args:
        tables: from `load_pairs`; their rows are numbered one table after the other.
        groups: (rows,) group of every row, from 0.
        first: rows before it are compared with later ones only.
    """
    rows = len(groups)
    keys, words = _keys_and_words(tables)
    distinct, begins, which = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(distinct), int)
    rank[np.argsort(begins)] = np.arange(len(distinct))  # in the order of their first rows: neighbours come before
    which = rank[which.reshape(-1)]
    place = np.full((len(distinct), groups.max(initial=0) + 1), rows)  # the first row of each pair in each group
    np.minimum.at(place, (which, groups), np.arange(rows))
    number = np.arange(rows)[:, None]
    exact = place[which] < number
    near = np.zeros_like(exact)
    sample = place.min(1)  # one row of each distinct pair
    asked = np.zeros(len(distinct), bool)
    asked[which[first:]] = True
    later = pd.Series(np.arange(first, rows)).groupby(which[first:]).indices
    for one, other in _near_pairs([words[row] for row in sample], asked, seed):
        for mine, theirs in ((one, other), (other, one)):
            copies = first + later.get(mine, np.empty(0, np.int64))
            near[copies] |= place[theirs] < copies[:, None]
    exact[:first] = near[:first] = False
    return Copies(exact, near & ~exact)


def similarity(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """Jaccard similarity of the shingles of two pairs, each a table of one row."""
    _, words = _keys_and_words([one, other])
    shingles, starts = _shingles(words)
    return _jaccard(*(np.unique(part) for part in np.split(shingles, starts[1:-1])))


def _keys_and_words(tables: list[pd.DataFrame]) -> tuple[np.ndarray, list[np.ndarray]]:
    """A key of every row that is equal for exact copies, and its words as numbers: the parts' with two marks (0)
    after each."""
    numbers: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    mark = numbers[""]
    keys, words = [], []
    for table in tables:
        for parts in zip(*(table[column] for column in ("prompt", "response_a", "response_b"))):
            prompt, *answers = (folded_words(turns) for turns in parts)
            text = "\x1e".join([" ".join(prompt), *sorted(" ".join(answer) for answer in answers)])
            keys.append(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest())
            found: list[int] = []
            for part in (prompt, *answers):
                if not text.isascii():
                    part = _NO_SPACES.sub(r" \g<0> ", " ".join(part)).split()
                found.extend(map(numbers.__getitem__, part))
                found += (mark, mark)
            words.append(np.array(found, dtype=np.uint32))
    return np.array(keys, dtype=object).astype(str), words


def _shingles(words: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all rows' shingles, one row after the other (uint32), and where each row begins; and the end."""
    starts = np.cumsum([0, *map(len, words)])
    flat = np.concatenate([np.zeros(2, np.uint32), *words]).astype(np.uint64)
    mixed = flat[:-2] * np.uint64(0x9E3779B97F4A7C15) + flat[1:-1] * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed += flat[2:] * np.uint64(0x165667B19E3779F9)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(32)).astype(np.uint32), starts


def _near_pairs(words: list[np.ndarray], asked: np.ndarray, seed: int) -> list[tuple[int, int]]:
    """All near copies (one, other) of which at least one is `asked` for."""
    hashed = [_shingles(words[start : start + _CHUNK]) for start in range(0, len(words), _CHUNK)]
    rng = np.random.default_rng(seed)
    factors = rng.integers(1, 2**32, BANDS * BAND, dtype=np.uint32) | np.uint32(1)
    masks = rng.integers(0, 2**32, BANDS * BAND, dtype=np.uint32)
    signatures = np.concatenate([_signatures(part, starts, factors, masks) for part, starts in hashed])
    candidates = np.unique(
        np.concatenate([np.empty(0, np.int64)] + [_likely(signatures, band, asked) for band in range(BANDS)])
    )
    sets: dict[int, np.ndarray] = {}

    def shingles_of(row: int) -> np.ndarray:
        if row not in sets:
            part, starts = hashed[row // _CHUNK]
            sets[row] = np.unique(part[starts[row % _CHUNK] : starts[row % _CHUNK + 1]])
        return sets[row]

    pairs = [(int(code // len(words)), int(code % len(words))) for code in candidates]
    return [(one, other) for one, other in pairs if _jaccard(shingles_of(one), shingles_of(other)) >= NEAR]


def _signatures(shingles: np.ndarray, starts: np.ndarray, factors: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The least hash of each row's shingles under every hash function, uint32 of shape (rows, functions)."""
    found = np.empty((len(starts) - 1, len(factors)), np.uint32)
    for number, (factor, mask) in enumerate(zip(factors, masks)):
        found[:, number] = np.minimum.reduceat((shingles ^ mask) * factor, starts[:-1])
    return found


def _likely(signatures: np.ndarray, band: int, asked: np.ndarray) -> np.ndarray:
    """Pairs that share this band and most of the rest, each as one number: smaller row × rows + larger row."""
    part = np.ascontiguousarray(signatures[:, band * BAND : (band + 1) * BAND])
    _, bucket = np.unique(part.view(f"V{part.itemsize * BAND}").reshape(-1), return_inverse=True)
    order = np.argsort(bucket, kind="stable")
    bucket = bucket[order]
    found, here = [np.empty(0, np.int64)], np.arange(len(order))
    for step in range(1, min(_NEIGHBOURS + 1, len(order))):  # neighbours in the sorted buckets, then next but one, ...
        here = here[here + step < len(order)]
        here = here[bucket[here] == bucket[here + step]]
        if not len(here):
            break
        one, other = order[here], order[here + step]
        wanted = asked[one] | asked[other]
        one, other = one[wanted], other[wanted]
        for start in range(0, len(one), 100_000):
            left, right = one[start : start + 100_000], other[start : start + 100_000]
            alike = (signatures[left] == signatures[right]).mean(1) >= _LIKELY
            found.append(left[alike] * len(order) + right[alike])  # order is ascending inside a bucket
    return np.concatenate(found)


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Of two sorted arrays without repeats."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(1, len(one) + len(other) - shared)
