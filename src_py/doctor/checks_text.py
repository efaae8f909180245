"""Checks of the text, the labels and the split."""

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Setup, judge, sequences
from src_py.evaluation.baselines import class_shares
from src_py.pairs.contest import TEXT_COLUMNS
from src_py.pairs.load import prompt_key

PROBE_LEAST, PROBE_ROWS = 400, 3000  # fewer rows would cry wolf


def check_tokens_per_character(setup: Setup) -> Finding:
    """Shattered text: a badly added token makes the tokenizer return single letters (tokenizers#1043)."""
    name, limit = "tokens per character", "< 0.5"
    if setup.tokenizer is None:
        return Finding(name, SKIP, "no tokenizer given", limit)
    texts = [t for t in _texts(setup) if len(t) >= 20 and t.isascii()]
    if not texts:
        return Finding(name, SKIP, "no long Latin texts in the sample", limit)
    ids = setup.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    ratio = float(np.median([len(i) / len(t) for i, t in zip(ids, texts)]))
    return judge(
        name,
        ratio,
        ratio > 0.45,
        ratio > 0.6,
        limit,
        'Text is shattered: add line breaks as AddedToken("\\n", normalized=False), as load_tokenizer does.',
    )


def check_unknown_tokens(setup: Setup) -> Finding:
    """A tokenizer that does not fit the language turns text into [UNK]."""
    name, limit = "unknown tokens", "< 2 %"
    unknown = getattr(setup.tokenizer, "unk_token_id", None)
    if unknown is None:
        return Finding(name, SKIP, "no tokenizer given", limit)
    ids = np.concatenate([np.asarray(s) for row in setup.sample for s in sequences(row)])
    share = float((ids == unknown).mean())
    advice = "The tokenizer does not know this text: set CFG.model_dir to a model with its own tokenizer."
    return judge(name, share, share > 0.02, share > 0.1, limit, advice, "{:.1%}")


def check_cut_answers(setup: Setup) -> list[Finding]:
    """Right-truncation removes answer B: the model then judges a pair of which it sees one half."""
    columns = setup.trainer.train_dataset.column_names
    if "response_b_tokens" not in columns:
        return [_cut_without_parts(setup)]
    cut = {}  # share of rows that keep less than half of a part
    for part in TEXT_COLUMNS:
        tokens = np.array([row[f"{part}_tokens"] for row in setup.sample])
        kept = np.array([row[f"{part}_kept"] for row in setup.sample])
        cut[part] = float(((kept < 0.5 * tokens) & (tokens > 8)).mean())
    gap = cut["response_b"] - cut["response_a"]
    # An answer that is cut alone is the other finding; here counts what both of them lose.
    both = {"prompt": cut["prompt"], "answers": min(cut["response_a"], cut["response_b"])}
    worst = max(both, key=both.get)
    return [
        judge(
            "one answer cut more",
            gap,
            abs(gap) > 0.05,
            abs(gap) > 0.15,
            "B - A within 5 points",
            "Cut prompt, A and B separately (encode_pairs), or raise CFG.max_length.",
            "{:+.1%}",
        ),
        judge(
            "rows mostly cut",
            both[worst],
            both[worst] > 0.2,
            both[worst] > 0.4,
            "< 20 % of rows",
            "Raise CFG.max_length"
            + (", or CFG.prompt_share." if worst == "prompt" else ", or lower CFG.prompt_share."),
            "{:.1%}",
            f" ({worst})",
        ),
    ]


def check_labels(setup: Setup) -> Finding:
    """Labels are whole numbers below the number of classes, and every class occurs."""
    name, limit = "labels", "whole numbers, every class present"
    labels = setup.labels()
    if not len(labels):
        return Finding(name, FAIL, "no column labels or label", limit, "Give the dataset a column `labels`.")
    if not np.issubdtype(labels.dtype, np.integer):
        return Finding(name, FAIL, f"type {labels.dtype}", limit, "Make labels integers: 0 a, 1 b, 2 tie.")
    classes = setup.n_classes
    shares = np.bincount(labels.clip(0), minlength=classes) / len(labels)
    measured = "shares " + " ".join(f"{share:.2f}" for share in shares)
    if labels.min() < 0 or labels.max() >= classes:
        return Finding(name, FAIL, f"{labels.min()} to {labels.max()}", f"0 to {classes - 1}", "Check the label map.")
    if shares.max() > 0.98:
        return Finding(name, FAIL, measured, limit, "One class only: check the winner columns of the training file.")
    if shares.min() < 0.01:
        return Finding(name, WARN, measured, limit, "A class is (almost) absent: are all winner columns read?")
    return Finding(name, PASS, measured, limit)


def check_signal_in_labels(setup: Setup) -> Finding:
    """Does anything simple predict the labels? When word counts and lengths cannot, they may be shuffled."""
    name, limit = "signal in labels", "better than constant"
    labels = setup.labels()[:PROBE_ROWS]
    if len(labels) < PROBE_LEAST or len(np.unique(labels)) < 2:
        return Finding(name, SKIP, f"{len(labels)} rows", f"{PROBE_LEAST} rows, 2 classes")
    features = _probe_features(setup, len(labels))
    gains = np.empty(len(labels))
    for fit, score in StratifiedKFold(4, shuffle=True, random_state=0).split(features, labels):
        probe = LogisticRegression(C=0.03, max_iter=200).fit(features[fit], labels[fit])
        constant = class_shares(labels[fit], labels.max() + 1)
        column = np.searchsorted(probe.classes_, labels[score])
        mine = probe.predict_proba(features[score])[np.arange(len(score)), column]
        gains[score] = np.log(mine.clip(1e-9)) - np.log(constant[labels[score]])
    gain, error = gains.mean(), gains.std() / np.sqrt(len(gains))
    advice = "Word counts and lengths predict nothing: are labels shuffled, or joined by position instead of id?"
    return judge(name, gain, gain < error, False, limit, advice, "{:+.4f} nats", f" ± {error:.4f}")


def check_same_prompt_on_both_sides(setup: Setup) -> Finding:
    """A prompt that is in training and validation makes the validation score too good."""
    name, limit = "prompts on both sides", "none"
    if setup.train is not None and setup.valid is not None:
        seen, asked = set(prompt_key(setup.train)), prompt_key(setup.valid)
        share = float(asked.isin(seen).mean())
    elif setup.trainer.eval_dataset is not None:
        seen = {_fingerprint(row) for row in setup.trainer.train_dataset}
        share = float(np.mean([_fingerprint(row) in seen for row in setup.trainer.eval_dataset]))
    else:
        return Finding(name, SKIP, "no validation rows", limit)
    return judge(name, share, share > 0, share > 0.01, limit, "Split by prompt (assign_folds).", "{:.1%} of rows")


DATA_CHECKS = (
    check_tokens_per_character,
    check_cut_answers,
    check_unknown_tokens,
    check_labels,
    check_signal_in_labels,
    check_same_prompt_on_both_sides,
)


def _texts(setup: Setup) -> list[str]:
    if setup.train is not None:
        rows = setup.train["response_a"].iloc[: setup.rows]
        return [" ".join(" ".join(turns).split()) for turns in rows]
    return [setup.tokenizer.decode(s, skip_special_tokens=True) for row in setup.sample for s in sequences(row)]


def _cut_without_parts(setup: Setup) -> Finding:
    lengths = [len(s) for row in setup.sample for s in sequences(row)]
    at_limit = float(np.mean([n == max(lengths) for n in lengths]))
    advice = "Many rows end at the same length: they are truncated, and what stands last is lost. Raise max_length."
    return judge("rows cut", at_limit, at_limit > 0.25, at_limit > 0.6, "< 25 % at the maximum", advice, "{:.1%}")


def _probe_features(setup: Setup, rows: int) -> sp.csr_matrix:
    """Hashed token counts, A minus B where a row has two answers, and the difference of lengths."""
    width, blocks = 1024, []
    separator = getattr(setup.tokenizer, "sep_token_id", None)
    for row in setup.trainer.train_dataset.select(range(rows)):
        parts = sequences(row)
        if len(parts) == 1 and separator is not None:
            marks = np.flatnonzero(np.asarray(parts[0]) == separator)
            if len(marks) == 3:  # [CLS] P [SEP] A [SEP] B [SEP]
                parts = [parts[0][marks[0] : marks[1]], parts[0][marks[1] : marks[2]]]
        counts = [np.bincount(np.asarray(p) % width, minlength=width) for p in parts]
        words = np.sign(counts[0] - counts[1]) if len(counts) == 2 else np.sign(counts[0])
        gap = np.log1p(len(parts[0])) - np.log1p(len(parts[-1]))
        blocks.append(sp.csr_matrix(np.append(words.astype(float), [gap, abs(gap)])))
    return sp.vstack(blocks).tocsr()


def _fingerprint(row: dict) -> tuple:
    return tuple(tuple(s) for s in sequences(row))
