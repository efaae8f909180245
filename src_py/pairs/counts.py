"""Length and format of answers, counted without reading them."""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

_PATTERNS = {
    "list items": re.compile(r"(?m)^[ \t]*(?:[-*•]|\d+[.)])\s"),
    "headings": re.compile(r"(?m)^#{1,6}\s"),
    "bold": re.compile(r"\*\*[^*\n]+\*\*"),
    "table rows": re.compile(r"(?m)^[ \t]*\|"),
    "sentences": re.compile(r"[.!?]\s"),
}
_LITERALS = {
    "lines": ("\n",),
    "blank lines": ("\n\n",),
    "code fences": ("```",),
    "digits": tuple("0123456789"),
    "capitals": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "commas": (",",),
    "questions": ("?",),
    "exclamations": ("!",),
    "links": ("http://", "https://"),
}
_PHRASES = {
    "refusals": ("as an ai", "i can't", "i cannot", "i am unable", "i'm sorry", "i apolog", "not able to"),
    "hedges": ("however", " may ", " might ", " could ", "perhaps", "possibly"),
    "first person": (" i ", " i'm ", " my ", " me "),
}
_SHARES = ("digits", "capitals", "beyond ASCII", "commas", "list items")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Counts:
    """`a` and `b` (rows, k) hold the same k figures of each answer, `shared` (rows, m) what does not change when the
    answers change places; `names` and `shared_names` say which."""

    a: np.ndarray
    b: np.ndarray
    shared: np.ndarray
    names: tuple[str, ...]
    shared_names: tuple[str, ...]


def count_answers(table: pd.DataFrame) -> Counts:
    """Counts of every answer (log scale), shares of its characters, its last characters, its overlap with the prompt;
    shared: counts of the prompt, overlap of the answers, whether they are equal.

    Args:
        table: from `load_pairs`.
    """
    texts = {column: table[column].map("\n".join) for column in ("prompt", "response_a", "response_b")}
    lowered = {column: text.str.lower() for column, text in texts.items()}
    counts = {column: _count(texts[column], lowered[column]) for column in texts}
    turns = table["prompt"].map(len).to_numpy(float)
    bags = {column: [frozenset(_WORD.findall(text)) for text in lowered[column]] for column in texts}
    sides, names = [], []
    for column in ("response_a", "response_b"):
        figures = counts[column]
        length = figures["characters"].clip(1)
        columns = {f"log {name}": np.log1p(values) for name, values in figures.items()}
        columns |= {f"{name} share": figures[name] / length for name in _SHARES}
        columns["characters a word"] = length / figures["words"].clip(1)
        columns["against prompt"] = np.log1p(length) - np.log1p(counts["prompt"]["characters"])
        columns["prompt words used"] = _overlap(bags["prompt"], bags[column], of_first=True)
        columns["distinct words"] = np.array([len(bag) for bag in bags[column]]) / figures["words"].clip(1)
        columns["ends in a stop"] = texts[column].str.rstrip().str[-1:].isin(list(".!?`)")).to_numpy(float)
        names = list(columns)
        sides.append(np.stack(list(columns.values()), axis=1).astype(np.float32))
    prompt = {f"prompt log {name}": np.log1p(values) for name, values in counts["prompt"].items()}
    prompt["turns"] = turns
    prompt["overlap of the answers"] = _overlap(bags["response_a"], bags["response_b"])
    prompt["equal answers"] = (texts["response_a"] == texts["response_b"]).to_numpy(float)
    shorter = np.minimum(counts["response_a"]["characters"], counts["response_b"]["characters"])
    longer = np.maximum(counts["response_a"]["characters"], counts["response_b"]["characters"])
    prompt["shorter to longer"] = shorter / longer.clip(1)
    shared = np.stack(list(prompt.values()), axis=1).astype(np.float32)
    return Counts(sides[0], sides[1], shared, tuple(names), tuple(prompt))


def count_features(table: pd.DataFrame) -> list[list[float]]:
    """`count_answers` as the model takes it: of every row the numbers of A, of B, and the shared ones."""
    counted = count_answers(table)
    return np.hstack([counted.a, counted.b, counted.shared]).tolist()


def _count(texts: pd.Series, lowered: pd.Series) -> dict[str, np.ndarray]:
    """Each figure of every text. `str.count` and `str.split` run in C: ten times as fast as a pattern for the same."""
    found = {"characters": [len(text) for text in texts], "words": [len(text.split()) for text in texts]}
    found["beyond ASCII"] = [len(text) - len(text.encode("ascii", "ignore")) for text in texts]
    for name, pattern in _PATTERNS.items():
        found[name] = [len(pattern.findall(text)) for text in texts]
    for name, parts in _LITERALS.items():
        found[name] = [sum(map(text.count, parts)) for text in texts]
    for name, parts in _PHRASES.items():
        found[name] = [sum(map(text.count, parts)) for text in lowered]
    return {name: np.array(values, dtype=float) for name, values in found.items()}


def _overlap(first: list[frozenset], second: list[frozenset], of_first: bool = False) -> np.ndarray:
    """Shared words over all words of both, or over the words of the first."""
    both = np.array([len(a & b) for a, b in zip(first, second)], float)
    whole = np.array([len(a) if of_first else len(a | b) for a, b in zip(first, second)], float)
    return both / whole.clip(1)


_NONE = count_answers(pd.DataFrame({column: [[""]] for column in ("prompt", "response_a", "response_b")}))
SIDE_NAMES, SHARED_NAMES = _NONE.names, _NONE.shared_names  # what there is of every pair, in this order
