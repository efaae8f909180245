"""Checks of the text, the labels and the split."""

import numpy as np

from src_py.doctor.checks_model import encoder_of
from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Setup, judge
from src_py.doctor.rows import first_set, row_count, take
from src_py.doctor.settings import CODE
from src_py.model.families import max_tokens
from src_py.pairs.contest import TEXT_COLUMNS
from src_py.pairs.encode import round_up
from src_py.pairs.load import prompt_key

PROBE_LEAST, PROBE_ROWS = 400, 2000  # fewer rows hold too little signal to find; more take too long
PROBE_WIDTH = 512  # token counts are hashed to so many columns
# Measured on 40 subsets of 400 real pairs: none with the right labels is above 0.2 (3 above 0.05), and 34 of 40 with
# shuffled ones are. More rows show a signal more surely, so that the limit falls with them.
SHUFFLED_AS_GOOD = 0.2
SENTENCE = 16  # tokens: a short sentence
LOST = 0.4  # share of rows
WHOLE, SPECIAL = 0.8, 4  # share of rows that a proposed length holds; special tokens in them
RARE = 0.01  # share of a class
SAME_ROWS = 20_000  # rows compared for being on both sides of the split
SHUFFLES = 200  # of the labels; the null's quantiles are then known to a few per cent


def check_tokens_per_character(setup: Setup) -> Finding:
    """Shattered text: a badly added token makes the tokenizer return single letters (tokenizers#1043)."""
    name = "tokens per character"
    if setup.tokenizer is None:
        return Finding(name, SKIP, "no tokenizer given")
    long = [t for t in texts_of(setup) if len(t) >= 20]
    # Of other alphabets too, where most of a text is written in one.
    texts = [t for t in long if t.isascii()]
    other = [t for t in long if 2 * sum(c > "\x7f" for c in t) > len(t)]
    if not texts and not other:
        return Finding(name, SKIP, "no long texts in the sample")
    pieces = [len(piece) for piece in setup.tokenizer.get_vocab()]
    if np.median(pieces) <= 1:
        return Finding(name, SKIP, "a tokenizer of single characters")
    ids = setup.tokenizer(texts or other, add_special_tokens=False, verbose=False)["input_ids"]
    ratio = float(np.median([len(i) / len(t) for i, t in zip(ids, texts or other)]))
    if not texts:
        advice = f"The tokenizer knows only the bytes of this language: set {setup.setting('model_dir')} to one for it."
        # A character is a token at most where a language is known, Chinese too; two or three where bytes are.
        return judge(name, ratio, advice, warn=(None, 1.2), form="{:.2f}")
    advice = 'Text is shattered: add line breaks as AddedToken("\\n", normalized=False)'
    advice += ", as load_tokenizer does." if setup.ours else "."
    # English text has 0.2 to 0.3 tokens a character, code and rare words up to 0.45; shattered text 1 and more.
    added = getattr(setup.tokenizer, "added_tokens_decoder", {}).values()
    spaces = [t.content for t in added if t.normalized and not t.content.strip()]  # these match between all letters
    right = ", ".join(f"AddedToken({content!r}, normalized=False)" for content in spaces)
    lines = (f"tokenizer.add_tokens({spaces!r})", f"tokenizer.add_tokens([{right}])")
    change = {CODE: lines} if spaces else {}
    return judge(name, ratio, advice, warn=(None, 0.45), fail=(None, 0.6), form="{:.2f}", change=change)


def check_unknown_tokens(setup: Setup) -> Finding:
    """A tokenizer that does not fit the language turns text into [UNK]."""
    name = "unknown tokens"
    unknown = getattr(setup.tokenizer, "unk_token_id", None)
    if unknown is None:
        return Finding(name, SKIP, "no tokenizer given, or one without an unknown token")
    ids = np.concatenate([np.asarray(s) for row in setup.sample_ids for s in row])
    advice = "The tokenizer does not know this text: "
    advice += f"set {setup.setting('model_dir')} to one" if setup.ours else "take a model, with its tokenizer,"
    advice += " that was trained on such text."
    # Emoji and rare signs make about 1 %; with three unknown words in ten, sentences can still be told apart.
    return judge(name, float((ids == unknown).mean()), advice, warn=(None, 0.02), fail=(None, 0.3), form="{:.1%}")


def check_cut_answers(setup: Setup) -> list[Finding]:
    """Right-truncation removes answer B: the model then judges a pair of which it sees one half."""
    first = setup.sample[0]
    if not (isinstance(first, dict) and "response_b_tokens" in first):
        return [_cut_without_parts(setup)]
    cut, gone = {}, {}  # share of rows that keep less than half of a part; of those, with less than a sentence left
    for part in TEXT_COLUMNS:
        tokens = np.array([row[f"{part}_tokens"] for row in setup.sample])
        left = np.array([row[f"{part}_kept"] for row in setup.sample])
        less = (left < 0.5 * tokens) & (tokens > 8)
        cut[part], gone[part] = float(less.mean()), float((less & (left < SENTENCE)).mean())
    # An answer that is cut alone is the other finding; here counts what both of them lose.
    both = {"prompt": cut["prompt"], "answers": min(cut["response_a"], cut["response_b"])}
    worst = max(both, key=lambda part: both[part])
    lost = min(gone["response_a"], gone["response_b"])
    raise_length = f"Raise {setup.setting('max_length')}"
    share = f", or {'raise' if worst == 'prompt' else 'lower'} {setup.setting('prompt_share')}."
    separately = "Cut prompt, A and B separately" + (" (encode_pairs)" if setup.ours else "")
    return [
        judge(
            "one answer cut more",
            cut["response_b"] - cut["response_a"],
            f"{separately}, or raise {setup.setting('max_length')}.",
            warn=(-0.05, 0.05),
            fail=(-0.15, 0.15),
            form="{:+.0%}",
            note=" of rows, B against A",
        ),
        _mostly_cut(lost, both[worst], worst, raise_length + share, _long_enough(setup)),
    ]


def _mostly_cut(lost: float, cut: float, part: str, advice: str, change: dict) -> Finding:
    """Rows of which half is cut are often learned from all the same; a failure only where hardly a sentence is left."""
    name, note = "rows mostly cut", f" ({part})"
    if lost > LOST:
        note = f" (answers, under {SENTENCE} tokens)"
        return judge(name, lost, advice, fail=(None, LOST), form="{:.0%}", note=note, change=change)
    return judge(name, cut, advice, warn=(None, 0.2), form="{:.0%}", note=note, change=change)


def _long_enough(setup: Setup) -> dict:
    """The length at which `WHOLE` of the rows are read to their end, or as much of it as the model reads."""
    prompts, a, b = (np.array([row[f"{part}_tokens"] for row in setup.sample]) for part in TEXT_COLUMNS)
    apart = max(map(len, setup.sample_ids)) == 2  # each answer is read beside the prompt
    tokens = prompts + (np.maximum(a, b) if apart else a + b) + SPECIAL
    return _longer(setup, int(np.quantile(tokens, WHOLE)))


def _longer(setup: Setup, tokens: int) -> dict:
    config = getattr(encoder_of(setup.model), "config", None)
    limit, tokens = None if config is None else max_tokens(config), round_up(tokens)
    tokens = min(tokens, limit) if limit and limit > 0 else tokens
    return {"max_length": tokens} if tokens > setup.longest else {}


def check_labels(setup: Setup) -> Finding:
    """Labels are whole numbers below the number of classes, and every class occurs."""
    name, limit = "labels", f"whole numbers, each class {RARE:.0%} to {1 - 2 * RARE:.0%}"
    labels = setup.labels
    if not len(labels):
        return Finding(name, SKIP, "none found: neither rows nor batches have labels", limit)
    if setup.kind.startswith("labels of"):
        return Finding(name, SKIP, setup.kind, "for labels of whole rows only")
    if setup.kind != "classes":
        finite = bool(np.isfinite(labels.astype(float)).all())
        advice = "" if finite else "Remove rows whose label is missing or infinite."
        return Finding(name, PASS if finite else FAIL, setup.kind, "finite", advice)
    if not np.issubdtype(labels.dtype, np.integer):
        labels = setup.batch_labels  # what the collator makes of them
    if not np.issubdtype(labels.dtype, np.integer):
        return Finding(name, FAIL, f"type {labels.dtype}", limit, "Make labels whole numbers: 0, 1, ...")
    classes = setup.n_classes
    if labels.min() < 0 or labels.max() >= classes:
        return Finding(name, FAIL, f"{labels.min()} to {labels.max()}", f"0 to {classes - 1}", "Check the label map.")
    shares = np.bincount(labels, minlength=classes) / len(labels)
    measured = "shares " + " ".join(f"{share:.2f}" for share in shares)
    source = "the winner columns of the training file" if setup.ours else "how labels are read"
    if shares.max() == 1:
        return Finding(name, FAIL, measured, limit, f"One class only: check {source}.")
    if shares.min() < RARE or shares.max() > 1 - 2 * RARE:
        return Finding(name, WARN, measured, limit, f"A class is (almost) absent: check {source}.")
    return Finding(name, PASS, measured, limit)


def check_signal_in_labels(setup: Setup) -> Finding:
    """Does anything simple predict the labels better than shuffled ones? If not, they may be shuffled themselves.

    A ridge regression on token counts and lengths, left-one-out, against the same with the labels permuted.
    """
    name = "signal in labels"
    if setup.kind != "classes":
        return Finding(name, SKIP, setup.kind, "for classes only")
    labels = setup.labels[:PROBE_ROWS]
    if len(labels) < PROBE_LEAST or len(np.unique(labels)) < 2:
        return Finding(name, SKIP, f"{len(labels)} labels: less than {PROBE_LEAST}, or all the same")
    rows = take(setup.trainer.train_dataset, len(labels))
    first = distinct_places(setup, rows)
    if len(first) < PROBE_LEAST:
        return Finding(name, SKIP, f"{len(first)} different rows: less than {PROBE_LEAST}")
    rows, labels = [rows[i] for i in first], labels[first]
    share = shuffled_as_good(probe_features(setup, rows), labels, setup.seed)
    advice = "Word counts and lengths predict nothing: are labels shuffled, or joined by position instead of id?"
    limit = SHUFFLED_AS_GOOD * PROBE_LEAST / len(labels)
    return judge(name, share, advice, warn=(None, limit), form="{:.0%}", note=" of shuffled labels predicted as well")


def distinct_places(setup: Setup, rows: list) -> list[int]:
    """Places of rows whose tokens have not occurred before: a copy would be predicted from its twin."""
    first: dict[tuple, int] = {}
    for place, ids in enumerate(setup.ids(rows)):
        first.setdefault(_fingerprint(ids), place)
    return list(first.values())


def distinct(setup: Setup, rows: list) -> list:
    """Those rows."""
    return [rows[place] for place in distinct_places(setup, rows)]


def shuffled_as_good(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """Share of `SHUFFLES` permutations of the labels that a ridge regression predicts at least as well.

    Args:
        features: (rows, columns).
        labels: (rows,) class numbers.
    """
    targets = np.eye(labels.max() + 1)[labels]
    targets = targets[:, targets.any(0)] - targets[:, targets.any(0)].mean(0)
    features = features - features.mean(0)
    basis, sizes, _ = np.linalg.svd(features / (features.std() or 1.0), full_matrices=False)
    gains: list = []
    for strength in (0.1, 1.0, 10.0):  # of the penalty, in units of the mean squared singular value
        shrink = sizes**2 / (sizes**2 + strength * (sizes**2).mean())
        leverage = (basis**2 * shrink).sum(1) + 1 / len(labels)
        gains.append([])
        for number in range(SHUFFLES + 1):
            y = targets[np.random.default_rng((seed, number)).permutation(len(labels))] if number else targets
            fitted = basis @ (shrink[:, None] * (basis.T @ y))
            left_out = (y - fitted) / (1 - leverage.clip(max=0.99))[:, None]
            gains[-1].append(-(left_out**2).sum())
    scaled = np.array(gains)
    scaled = (scaled - scaled[:, 1:].mean(1, keepdims=True)) / scaled[:, 1:].std(1, keepdims=True)
    best = scaled.max(0)  # whichever penalty fits, for true and shuffled labels alike
    return float((best[1:] >= best[0]).mean())


def check_same_prompt_on_both_sides(setup: Setup) -> Finding:
    """A prompt that is in training and validation makes the validation score too good."""
    name, data = "prompts on both sides", first_set(setup.trainer.eval_dataset)
    if data is not None and row_count(data) == 0:
        return Finding(name, SKIP, "no validation rows")
    if setup.train is not None and setup.valid is not None and len(setup.valid):
        seen, asked = set(prompt_key(setup.train)), prompt_key(setup.valid)
        if len(seen) == 1 and len(setup.train) > 1:
            advice = "Every row has the same prompt, or none: check how its column is read."
            return Finding(name, WARN, "one prompt", "several", advice)
        share, most = float(asked.isin(seen).mean()), 0.01
    elif data is not None:
        seen = {_fingerprint(ids) for ids in setup.ids(take(setup.trainer.train_dataset, SAME_ROWS))}
        share = float(np.mean([_fingerprint(ids) in seen for ids in setup.ids(take(data, SAME_ROWS))]))
        most = None  # rows, not prompts: short texts may be alike by nature
    else:
        return Finding(name, SKIP, "no validation rows")
    advice = "Split by prompt (assign_folds)." if setup.ours else "Split so that equal prompts are on one side."
    return judge(name, share, advice, warn=(None, 0), fail=(None, most), form="{:.1%} of rows")


DATA_CHECKS = (
    check_tokens_per_character,
    check_cut_answers,
    check_unknown_tokens,
    check_labels,
    check_signal_in_labels,
    check_same_prompt_on_both_sides,
)


def texts_of(setup: Setup) -> list[str]:
    """Texts of some rows, for their characters."""
    if setup.train is not None:
        rows = setup.train["response_a"].iloc[: setup.rows]
        return [" ".join(" ".join(turns).split()) for turns in rows]
    return [setup.tokenizer.decode(s, skip_special_tokens=True) for row in setup.sample_ids for s in row]


def _cut_without_parts(setup: Setup) -> Finding:
    """Where the parts are not known: rows that end at the same greatest length are probably cut there."""
    lengths = np.array([len(s) for row in setup.sample_ids for s in row])
    at_limit = float((lengths == lengths.max()).mean())
    advice = "Many rows end at the same length: they are truncated, and what stands last is lost. Raise "
    advice += f"{setup.setting('max_length')}."
    # Never a failure: a text's beginning is often enough to learn from, and rows may be equally long by nature.
    note = f" at {lengths.max()} tokens"
    change = _longer(setup, 2 * setup.longest)  # how long the rows were is not known here
    return judge("rows cut", at_limit, advice, warn=(None, 0.25), form="{:.0%}", note=note, change=change)


def probe_features(setup: Setup, rows: list) -> np.ndarray:
    """(rows, columns): hashed token counts, A minus B where a row has two answers, and the difference of lengths."""
    separator = getattr(setup.tokenizer, "sep_token_id", None)
    features = np.zeros((len(rows), PROBE_WIDTH + 2))
    for number, parts in enumerate(setup.ids(rows)):
        if len(parts) == 1 and separator is not None:
            marks = np.flatnonzero(np.asarray(parts[0]) == separator)
            if len(marks) == 3:  # [CLS] P [SEP] A [SEP] B [SEP]
                parts = [parts[0][marks[0] : marks[1]], parts[0][marks[1] : marks[2]]]
        counts = [np.bincount(np.asarray(p) % PROBE_WIDTH, minlength=PROBE_WIDTH) for p in parts]
        features[number, :PROBE_WIDTH] = np.sign(counts[0] - counts[1] if len(counts) == 2 else counts[0])
        gap = np.log1p(len(parts[0])) - np.log1p(len(parts[-1]) if len(parts) == 2 else 0)
        features[number, PROBE_WIDTH:] = gap, abs(gap)
    return features


def _fingerprint(ids: list[list[int]]) -> tuple:
    return tuple(tuple(sequence) for sequence in ids)
