"""Checks of the training rows: copies, contradictions, empty sides, and the special tokens around a text."""

import numpy as np

from src_py.doctor.findings import PASS, SKIP, WARN, Finding, Setup, judge
from src_py.doctor.rows import LABEL_NAMES, column, take

ROWS = 2000  # rows compared with each other
LONGEST_PATTERN, PATTERN = 12, 0.95  # rows after which labels repeat, and the share that has to
TAIL = 4  # equal tokens at the end of a text, where it is padding that is read as text


def check_copies(setup: Setup) -> list[Finding]:
    """Equal texts among the training rows, and equal texts with different labels."""
    rows = take(setup.trainer.train_dataset, ROWS, setup.seed)
    texts = [tuple(map(tuple, ids)) for ids in setup.ids(rows)]
    copies = 1 - len(set(texts)) / len(texts)
    advice = "Many training rows are equal: was a constant column read, or a table joined with itself?"
    found = [judge("equal rows", copies, advice, warn=(None, 0.2), fail=(None, 0.9), form="{:.0%}")]
    labels = labels_of(setup, rows)
    if labels is None:
        return [*found, Finding("contradicting rows", SKIP, "rows without a label column")]
    seen: dict[tuple, set] = {}
    for text, label in zip(texts, labels):
        seen.setdefault(text, set()).add(label)
    torn = float(np.mean([len(seen[text]) > 1 for text in texts]))
    advice = "Equal texts have different labels: was a table joined on the wrong key, or are votes not aggregated?"
    return [*found, judge("contradicting rows", torn, advice, warn=(None, 0.1), fail=(None, 0.5), form="{:.0%}")]


def check_label_order(setup: Setup) -> Finding:
    """Labels that repeat from row to row in one pattern follow the rows' position, and not their text."""
    name, limit = "labels and row order", "no pattern"
    known = column(setup.trainer.train_dataset, [*setup.trainer.label_names, *LABEL_NAMES], ROWS)
    if known is None or known.ndim != 1 or len(known) < 10 * LONGEST_PATTERN or setup.kind != "classes":
        return Finding(name, SKIP, "few rows, or rows without a label column", limit)
    again = {k: float((known[k:] == known[:-k]).mean()) for k in range(1, LONGEST_PATTERN + 1)}
    found = next((k for k, share in again.items() if k > 1 and share >= PATTERN and again[1] < PATTERN), None)
    advice = "Labels repeat every few rows: do they come from the rows' position or id? Read them by id."
    measured = f"repeat every {found} rows" if found else "no pattern"
    return Finding(name, WARN if found else PASS, measured, limit, advice if found else "")


def check_sides(setup: Setup) -> Finding:
    """Both answers of a pair are there, and they differ."""
    name, first = "two answers", setup.sample[0]
    if not (isinstance(first, dict) and "response_b_tokens" in first):
        return Finding(name, SKIP, "rows without two answers")
    tokens = np.array([[row["response_a_tokens"], row["response_b_tokens"]] for row in setup.sample])
    empty = (tokens == 0).mean(0)
    pairs = [ids for ids in setup.sample_ids if len(ids) == 2]
    same = np.mean([ids[0] == ids[1] for ids in pairs]) if pairs else 0.0
    if same > max(empty):
        advice = "Both sequences of a row are the same: are the answers dropped, or is one column read twice?"
        return judge(name, float(same), advice, warn=(None, 0.1), fail=(None, 0.5), form="{:.0%} the same")
    advice = f"Answer {'AB'[int(empty.argmax())]} is empty in many rows: check how its column is read."
    return judge(name, float(max(empty)), advice, warn=(None, 0.1), fail=(None, 0.5), form="{:.0%} empty")


def check_special_tokens(setup: Setup) -> Finding:
    """A text begins with the first special token once, and ends with the last, as in pretraining."""
    name, tokenizer = "special tokens", setup.tokenizer
    cls, sep = getattr(tokenizer, "cls_token_id", None), getattr(tokenizer, "sep_token_id", None)
    if cls is None or sep is None:
        return Finding(name, SKIP, "no tokenizer given, or one without them")
    texts = [np.asarray(ids) for row in setup.sample_ids for ids in row if len(ids)]
    right = [ids[0] == cls and (ids == cls).sum() == 1 and ids[-1] == sep for ids in texts]
    wrong = 1 - float(np.mean(right))
    advice = f"Texts have to begin with {tokenizer.cls_token} once and end with {tokenizer.sep_token}: let the "
    advice += "tokenizer add them (add_special_tokens=True), and nobody else."
    # Texts that were cut at the end lose the last one.
    return judge(name, wrong, advice, warn=(None, 0.5), form="{:.0%} of texts without, or with too many")


def check_padding_in_rows(setup: Setup) -> Finding:
    """Rows end in the same token many times over: padding that is stored as text."""
    texts = [ids for row in setup.sample_ids for ids in row]
    share = float(np.mean([len(ids) > TAIL and len(set(ids[-TAIL:])) == 1 for ids in texts]))
    advice = "Texts end in one repeated token that the mask shows as text: pad in the collator, with the pad token."
    return judge("padding in the rows", share, advice, warn=(None, 0.3), form="{:.0%} of texts")


ROW_CHECKS = (check_copies, check_label_order, check_sides, check_special_tokens, check_padding_in_rows)


def labels_of(setup: Setup, rows: list) -> list[float] | None:
    """The label of each row; None where a row has none, several, or one that is no number."""
    names = [*setup.trainer.label_names, *LABEL_NAMES]
    found = [next((row[n] for n in names if n in row), None) if isinstance(row, dict) else None for row in rows]
    numbers = [float(x) for x in found if x is not None and not np.ndim(x) and not isinstance(x, str)]
    return numbers if len(numbers) == len(found) else None
