"""Checks that text, tokens and labels belong together, on both sides of the split."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np

from src_py.doctor.checks_rows import labels_of
from src_py.doctor.checks_text import PROBE_LEAST, PROBE_ROWS, distinct, probe_features, texts_of
from src_py.doctor.findings import PASS, SKIP, WARN, Finding, Setup, judge
from src_py.doctor.rows import first_set, take

VALID_LEAST = 100  # validation rows; of fewer the probe says nothing
SURE = 4.0  # standard errors that the probe has to expect on the validation rows before it judges them
ROUND_TRIP_ROWS = 64
# Of truncated and normalised texts nine tenths of the tokens come back; of another vocabulary's few do.
SAME_TOKENS = 0.8
OFFSETS = (-3, -2, -1, 1, 2, 3)
COVERED, ELSEWHERE = 0.95, 0.01  # share of a class's rows, and of all others, that hold what gives the label away
CLASS_ROWS = 20  # of a class, to say so
_MARKUP = re.compile(
    r"<\s*/?\s*(?:p|br|div|span|a|li|ul|ol|b|i|td|tr|table|h[1-6]|img|strong|em)\b[^<>]*>"
    r"|&\s*(?:nbsp|amp|lt|gt|quot|#\s*\d+)\s*;",
    re.IGNORECASE,
)


def check_labels_of_both_sets(setup: Setup) -> Finding:
    """What predicts the training labels predicts the validation labels as well: else one set's labels are others.

    A ridge regression on token counts and lengths; it judges only where it predicts the training labels so well that
    it is sure to predict the validation labels, too.
    """
    name, data = "labels of both sets", first_set(setup.trainer.eval_dataset)
    if setup.kind != "classes" or data is None:
        return Finding(name, SKIP, setup.kind if setup.kind != "classes" else "no validation rows")
    sets = [distinct(setup, take(rows, PROBE_ROWS)) for rows in (setup.trainer.train_dataset, data)]
    labels = [found for rows in sets if (found := labels_of(setup, rows)) is not None]
    if len(labels) < 2 or len(sets[0]) < PROBE_LEAST or len(sets[1]) < VALID_LEAST:
        return Finding(name, SKIP, "few rows, or rows without a label column")
    numbers = [np.asarray(one) for one in labels]
    if min(one.min() for one in numbers) < 0:
        return Finding(name, SKIP, "labels below zero")
    outputs = np.eye(int(max(one.max() for one in numbers)) + 1)
    targets = [outputs[one.astype(int)] for one in numbers]
    features = [probe_features(setup, rows) for rows in sets]
    training, validation = agreement(features, targets)
    expected = training * np.sqrt(len(sets[1]) / len(sets[0]))
    if expected < SURE:
        return Finding(name, SKIP, "word counts predict too little to compare the sets")
    advice = "Words predict training labels, but not those of validation: does one set have another label map, another "
    advice += "column, or another order of rows?"
    return judge(
        name, validation / expected, advice, warn=(0.3, None), fail=(0.0, None), form="{:.0%}",
        note=" of the expected agreement",
    )  # fmt: skip


def agreement(features: list[np.ndarray], targets: list[np.ndarray]) -> tuple[float, float]:
    """How surely a ridge regression predicts the training labels (each row left out) and the validation labels.

    Args:
        features, targets: of training and validation rows, (rows, columns) and (rows, classes).

    Returns:
        Mean product of prediction and label, both without the class shares, in its standard errors.
    """
    center, shares = features[0].mean(0), targets[0].mean(0)
    x, y = [one - center for one in features], [one - shares for one in targets]
    scale = x[0].std() or 1.0
    u, sizes, v = np.linalg.svd(x[0] / scale, full_matrices=False)
    best = (-np.inf, 0.0)
    for strength in (0.1, 1.0, 10.0):  # of the penalty, in units of the mean squared singular value
        penalty = strength * (sizes**2).mean()
        shrink = sizes**2 / (sizes**2 + penalty)
        leverage = ((u**2) @ shrink + 1 / len(u)).clip(max=0.99)[:, None]
        fitted = u @ (shrink[:, None] * (u.T @ y[0]))
        left_out = y[0] - (y[0] - fitted) / (1 - leverage)
        weights = v.T @ ((sizes / (sizes**2 + penalty))[:, None] * (u.T @ y[0]))
        best = max(best, (_surely(left_out, y[0]), _surely(x[1] / scale @ weights, y[1])))
    return best


def check_ties_and_sides(setup: Setup) -> Finding:
    """A tie does not depend on which answer is A: what differs between the answers predicts classes 0 and 1, not 2.

    A ridge regression on differences of token counts and lengths, which change sign when the answers change places.
    """
    name, limit = "ties and sides", "differences predict 0 and 1, not 2"
    rows = distinct(setup, take(setup.trainer.train_dataset, PROBE_ROWS))
    labels = labels_of(setup, rows) if setup.ours and setup.kind == "classes" else None
    if labels is None or setup.n_classes != 3 or "response_b_tokens" not in rows[0]:
        return Finding(name, SKIP, "not pairs with ties", limit)
    if len(rows) < PROBE_LEAST:
        return Finding(name, SKIP, f"{len(rows)} labels: less than {PROBE_LEAST}", limit)
    features, targets = probe_features(setup, rows)[:, :-1], np.eye(3)[np.asarray(labels, int)]
    sure = [agreement([features[:1000]] * 2, [targets[:1000, [k]]] * 2)[0] for k in range(3)]
    if max(sure) < SURE:
        return Finding(name, SKIP, "word counts predict too little", limit)
    turned = sure[2] >= SURE and min(sure[:2]) < 0.5 * sure[2]
    advice = (
        "Which answer is which predicts class 2, the tie, better than class 0 or 1: is the label map off by one, or "
    )
    advice += "another one? 0 is A, 1 is B, 2 is a tie."
    measured = "standard errors " + " ".join(f"{value:.1f}" for value in sure)
    return Finding(name, WARN if turned else PASS, measured, limit, advice * turned)


def check_label_in_text(setup: Setup) -> Finding:
    """Words that stand in (almost) all rows of one class, and in no others, give the label away."""
    name, limit = "label in the text", "no word gives it away"
    labels = labels_of(setup, setup.sample)
    if setup.kind != "classes" or labels is None:
        return Finding(name, SKIP, "rows without a label column" if labels is None else setup.kind, limit)
    counts = Counter(labels)
    known = [k for k, count in counts.items() if count >= CLASS_ROWS]
    if len(known) < 2:
        return Finding(name, SKIP, f"fewer than {CLASS_ROWS} rows of two classes", limit)
    seen: dict = {k: Counter() for k in counts}
    for ids, label in zip(setup.sample_ids, labels):
        words = {(side, word) for side, one in enumerate(ids) for word in (*one, *pairwise(one))}
        seen[label].update(words)
    total: Counter = sum(seen.values(), Counter())
    given = []
    for k in known:
        others = len(labels) - counts[k]
        own = (n for word, n in seen[k].items() if total[word] - n <= ELSEWHERE * others)
        given.append(max(own, default=0) >= COVERED * counts[k])
    advice = "A word or two stand in all rows of a class and in no others: is the label, or what follows from it, part "
    advice += "of the text? Rows to predict will not have it."
    leaks = sum(given) >= len(known) - 1
    return Finding(name, WARN if leaks else PASS, f"{sum(given)} of {len(known)} classes", limit, advice * leaks)


def check_markup(setup: Setup) -> Finding:
    """Tags and entities of HTML, which a page's text should not have."""
    texts = setup.sample_texts or []
    if not texts and (setup.train is not None or setup.tokenizer is not None):
        texts = texts_of(setup)
    if not texts:
        return Finding("markup in the text", SKIP, "no tokenizer given")
    share = float(np.mean([len(_MARKUP.findall(text)) > 1 for text in texts]))
    advice = "Most texts hold HTML: take the tags out, and turn entities into characters (html.unescape)."
    return judge("markup in the text", share, advice, warn=(None, 0.5), form="{:.0%} of texts")


def check_round_trip(setup: Setup) -> Finding:
    """The rows' tokens are those that the tokenizer makes of the rows' text, and not another vocabulary's.

    The text is what the tokenizer reads in the tokens; an offset, which is not seen there, is looked for where the text
    itself is known.
    """
    name, tokenizer = "tokens of the text", setup.tokenizer
    if tokenizer is None or not hasattr(tokenizer, "all_special_ids"):
        return Finding(name, SKIP, "no tokenizer given")
    special, shares = set(tokenizer.all_special_ids), []
    rows = [[[i for i in ids if i not in special] for ids in row] for row in setup.sample_ids[:ROUND_TRIP_ROWS]]

    def come_back(ids: list[int], text: str) -> float:
        again = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return (Counter(ids) & Counter(again)).total() / len(ids)

    advice = "Tokens of the rows are not those of this tokenizer: "
    if setup.sample_texts:
        pairs = [(ids, text) for row, text in zip(rows, setup.sample_texts) for ids in row if len(ids) > 2]
        for offset in OFFSETS:
            moved = [come_back([i - offset for i in ids], text) for ids, text in pairs]
            if moved and np.mean(moved) > SAME_TOKENS > np.mean([come_back(ids, text) for ids, text in pairs]):
                advice += f"ids have an offset of {offset:+d}; were special tokens added in between?"
                return Finding(name, WARN, f"an offset of {offset:+d}", f"at least {SAME_TOKENS:.0%} come back", advice)
    for row in rows:
        texts = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in row)
        shares += [come_back(ids, text) for ids, text in zip(row, texts) if len(ids) > 2]
    if not shares:
        return Finding(name, SKIP, "no texts of three tokens")
    advice += "was the text tokenised with another one, or do ids have an offset?"
    return judge(name, float(np.mean(shares)), advice, warn=(SAME_TOKENS, None), form="{:.0%} come back")


AGREE_CHECKS = (check_labels_of_both_sets, check_ties_and_sides, check_label_in_text, check_markup, check_round_trip)


def _surely(predicted: np.ndarray, labels: np.ndarray) -> float:
    products = (predicted * labels).sum(1)
    return float(products.mean() / (products.std() / np.sqrt(len(products)) + 1e-12))
