"""Length and format of answers, counted without reading them."""

import re

import numpy as np
import pandas as pd

from src_py.sides import Sides

_COUNTS = {
    "characters": None,
    "words": r"\S+",
    "lines": r"\n",
    "blank lines": r"\n\s*\n",
    "list items": r"(?m)^\s*(?:[-*•]|\d+[.)])\s",
    "code fences": r"```",
    "headings": r"(?m)^#{1,6}\s",
    "bold": r"\*\*[^*\n]+\*\*",
    "table rows": r"(?m)^\s*\|",
    "digits": r"\d",
    "capitals": r"[A-Z]",
    "commas": r",",
    "sentences": r"[.!?](?:\s|$)",
    "questions": r"\?",
    "exclamations": r"!",
    "links": r"https?://",
    "beyond ASCII": r"[^\x00-\x7f]",
    "first person": r"\b(?:I|I'm|my|me)\b",
    "refusals": r"(?i)\b(?:as an ai|i can(?:no|')t|i am unable|i'm sorry|i apologi[sz]e|not able to)",
    "hedges": r"(?i)\b(?:however|may|might|could|perhaps|possibly)\b",
}
_SHARES = ("digits", "capitals", "beyond ASCII", "commas", "list items")
_WORD = re.compile(r"\w+")


def length_sides(table: pd.DataFrame) -> Sides:
    """Counts of every answer (log scale), shares of its characters, its last characters, its overlap with the prompt;
    shared: counts of the prompt, overlap of the answers, whether they are equal.

    Args:
        table: from `load_pairs`.
    """
    texts = {column: table[column].map("\n".join) for column in ("prompt", "response_a", "response_b")}
    counts = {column: _count(text) for column, text in texts.items()}
    turns = table["prompt"].map(len).to_numpy(float)
    bags = {column: [frozenset(_WORD.findall(text.lower())) for text in texts[column]] for column in texts}
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
    return Sides(*sides, shared, tuple(names), tuple(prompt))


def _count(texts: pd.Series) -> dict[str, np.ndarray]:
    patterns = {name: re.compile(pattern) for name, pattern in _COUNTS.items() if pattern}
    found = {"characters": texts.str.len().to_numpy(float)}
    for name, pattern in patterns.items():
        found[name] = np.fromiter((len(pattern.findall(text)) for text in texts), float, len(texts))
    return found


def _overlap(first: list[frozenset], second: list[frozenset], of_first: bool = False) -> np.ndarray:
    """Shared words over all words of both, or over the words of the first."""
    both = np.array([len(a & b) for a, b in zip(first, second)], float)
    whole = np.array([len(a) if of_first else len(a | b) for a, b in zip(first, second)], float)
    return both / whole.clip(1)
