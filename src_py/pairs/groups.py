"""Groups of rows that a model may suit more or less: topic, length, script, turns, source."""

import unicodedata
from collections import Counter

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.preprocessing import normalize

from src_py.pairs.load import SOURCE_COLUMNS, distinct_prompts, prompt_key

FEWEST_ROWS = 30  # of a group
OTHER = "other groups"
TOPICS = 10
_LETTERS = 400  # of a text: enough to know its script


def calibration_groups(table: pd.DataFrame, seed: int) -> dict[str, np.ndarray]:
    """The group of every row by topic, length, script and turns, and by each of the columns source, dataset and
    language that the table has: arrays of names, (rows,). Labels are not read.

    Groups of fewer than 30 rows become "other groups". A grouping that leaves a single group is left out.

    Args:
        table: from `load_pairs`.
    """
    groupings = {
        "topic": _topics(table, seed),
        "length": _lengths(table),
        "script": np.array([_script(*row) for row in zip(*_joined(table))], dtype=object),
        "turns": np.where(table["prompt"].map(len) > 1, "several turns", "one turn").astype(object),
    }
    for column in SOURCE_COLUMNS:
        if column in table:
            groupings[column] = table[column].fillna("unknown").map(str).to_numpy(object)
    merged = {name: merge_small(group) for name, group in groupings.items()}
    return {name: group for name, group in merged.items() if len(set(group)) > 1}


def merge_small(groups: np.ndarray, least: int = FEWEST_ROWS) -> np.ndarray:
    """Names of groups, (rows,), where those of fewer than `least` rows are "other groups"."""
    sizes = pd.Series(groups, dtype=object).value_counts()
    return np.array([group if sizes[group] >= least else OTHER for group in groups], dtype=object)


def topic_of(table: pd.DataFrame, seed: int, count: int) -> np.ndarray:
    """Number of the topic of every row, (rows,): clusters of the prompts' words. Equal prompts share a topic."""
    numbers, prompts = distinct_prompts(table)
    try:
        words = TfidfVectorizer(max_features=5000, sublinear_tf=True, stop_words="english").fit_transform(prompts)
    except ValueError:  # no words at all
        return np.zeros(len(table), dtype=np.int64)
    size = min(30, min(words.shape) - 1)
    if size < 2:
        return np.zeros(len(table), dtype=np.int64)
    vectors = normalize(TruncatedSVD(size, random_state=seed).fit_transform(words))
    clusters = KMeans(min(count, len(prompts)), n_init=1, random_state=seed).fit_predict(vectors)
    return clusters.astype(np.int64)[numbers]


def _topics(table: pd.DataFrame, seed: int) -> np.ndarray:
    """Topics with the three words in their names that are the most frequent there against everywhere."""
    topics = topic_of(table, seed, min(TOPICS, max(1, len(table) // FEWEST_ROWS)))
    counter = CountVectorizer(max_features=2000, binary=True, stop_words="english", token_pattern=r"[^\W\d_]{3,}")
    try:
        words = counter.fit_transform(prompt_key(table))
    except ValueError:  # no words at all
        return np.array([f"topic {topic}" for topic in topics], dtype=object)
    vocabulary, everywhere = counter.get_feature_names_out(), np.asarray(words.mean(axis=0)).ravel()
    names = {}
    for topic in np.unique(topics):
        more = np.asarray(words[topics == topic].mean(axis=0)).ravel() - everywhere
        best = [vocabulary[word] for word in np.argsort(-more, kind="stable")[:3] if more[word] > 0]
        names[topic] = f"{topic}: {', '.join(best)}" if best else f"topic {topic}"  # two may share their words
    return np.array([names[topic] for topic in topics], dtype=object)


def _lengths(table: pd.DataFrame) -> np.ndarray:
    """Quarters of the rows by the characters of both answers; ties fall on one side."""
    _, a, b = _joined(table)
    lengths = np.array([len(first) + len(second) for first, second in zip(a, b)])
    edges = np.unique(np.quantile(lengths, [0.25, 0.5, 0.75]).astype(int))
    names = [f"{low + 1:,} to {high:,} characters" for low, high in zip([-1, *edges], edges)]
    names.append(f"over {edges[-1]:,} characters")
    return np.array([names[place] for place in np.searchsorted(edges, lengths)], dtype=object)


def _script(prompt: str, a: str, b: str) -> str:
    """Code where there is a fence; else the script of most letters, Latin with or without letters beyond ASCII."""
    if "```" in prompt or "```" in a or "```" in b:
        return "code"
    letters = [letter for text in (prompt, a, b) for letter in text[:_LETTERS] if letter.isalpha()]
    if not letters:
        return "no letters"
    beyond = [letter for letter in letters if not letter.isascii()]
    if len(beyond) < 0.01 * len(letters):
        return "ASCII letters"
    scripts = Counter(unicodedata.name(letter, "UNKNOWN").partition(" ")[0] for letter in beyond)
    scripts["LATIN"] += len(letters) - len(beyond)
    found = scripts.most_common(1)[0][0].capitalize()
    return "Latin beyond ASCII" if found == "Latin" else found


def _joined(table: pd.DataFrame) -> tuple[list[str], ...]:
    return tuple(table[column].map("\n".join).tolist() for column in ("prompt", "response_a", "response_b"))
