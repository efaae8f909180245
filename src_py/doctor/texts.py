"""The text that the rows' tokens were made from, where it is known."""

from collections.abc import Iterable

import pandas as pd

from src_py.doctor.rows import positions, row_count
from src_py.pairs.contest import TEXT_COLUMNS

LOOKED_AT = 32  # rows
NEAR, MOST = (0.8, 1.25), 0.8  # tokens of the text for one of the row, and the share of rows for which that holds


def known_texts(dataset, rows: list, seed: int, ids: list, tokenizer, table: pd.DataFrame | None) -> list[str] | None:
    """The text of each row: that of its row of the table, or of the columns that `datasets.map` left beside the tokens.

    Columns count as the text only if it has as many tokens as the rows: an id, a link, a summary or a text that was
    cleaned since does not. Rows that were cut may have fewer.

    Args:
        rows: as `take(dataset, len(rows), seed)` gives them.
        ids: of each row, its sequences of token ids.
        table: with the columns of `load_pairs`; used if it has the dataset's rows in the dataset's order.

    Returns:
        A text for each row; None where it is not known.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    if any(token.normalized and not token.content.strip() for token in added):
        return None  # a line break that was badly added: on some texts the tokenizer panics
    if table is not None and len(table) == row_count(dataset):
        table = table.iloc[positions(len(table), len(rows), seed)]
        if table["label"].tolist() == [row.get("labels") if isinstance(row, dict) else None for row in rows]:
            parts = zip(*(table[name] for name in TEXT_COLUMNS))
            return [_words(turn for turns in row for turn in turns) for row in parts]
    if tokenizer is None or not rows or not all(isinstance(row, dict) for row in rows):
        return None
    texts = {name: found for name in rows[0] if all(found := [_joined(row.get(name)) for row in rows])}
    candidates = [*texts.values(), [" ".join(parts) for parts in zip(*texts.values())]]
    lengths = [max(map(len, one)) for one in ids]
    own = [sum(map(len, one)) for one in ids]
    whole = [i for i, length in enumerate(lengths) if length < max(lengths)] or list(range(len(rows)))
    cut = len(whole) == len(rows)  # all of the same length: cut there, or equal by nature
    places = whole[:LOOKED_AT]
    for found in candidates:
        counts = tokenizer([found[i] for i in places], verbose=False)["input_ids"] if found else []
        ratios = [len(one) / max(1, own[i]) for i, one in zip(places, counts)]
        near = [NEAR[0] <= ratio and (cut or ratio <= NEAR[1]) for ratio in ratios]
        if near and sum(near) >= MOST * len(near):
            return found
    return None


def _joined(value) -> str:
    """A text, or a list of texts, as one; "" for anything else."""
    values = value if isinstance(value, list) else [value]
    return _words(values) if values and all(isinstance(text, str) for text in values) else ""


def _words(texts: Iterable[str]) -> str:
    """The texts' words, with single spaces."""
    return " ".join(word for text in texts for word in text.split())
