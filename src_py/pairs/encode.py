"""Turn pairs into token sequences in which the prompt and both answers survive."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from src_py.config import Settings, check_choice, setting
from src_py.kaggle.files import writing
from src_py.kaggle.identity import module_digest
from src_py.kaggle.session import to_device
from src_py.pairs.contest import TEXT_COLUMNS
from src_py.pairs.counts import count_features
from src_py.pairs.tokenizer import newline_id, single_token_id

STYLES = ("pairwise", "joint")
FEATURES = ("off", "on", "alone")
FEWEST_PAIRS = 10  # of a chatbot, whose name is otherwise not to be guessed
UNKNOWN = -100  # as in `torch.nn.functional.cross_entropy`: no target
CUTS = ("parts", "right")
_BLANK_LINES = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Reading(Settings):
    """How a pair is read.

    Args:
        style: "pairwise" makes two sequences of a pair, [CLS] P [SEP] A [SEP] and [CLS] P [SEP] B [SEP]; "joint" makes
            one, [CLS] P [SEP] A [SEP] B [SEP].
        max_length: tokens in one sequence, special tokens included.
        prompt_share: share of the budget that is the prompt's; the answers have the rest.
        head_share: share of a cut turn that is taken from its beginning.
        features: counts of length and format (`count_answers`) go to the model beside the text ("on") or in place of it
            ("alone"), or not at all ("off").
    """

    style: str = setting("pairwise", choices=STYLES)
    max_length: int = setting(512, least=16, most=16384)
    prompt_share: float = setting(0.3, above=0, below=1)
    head_share: float = setting(0.6, least=0, most=1)
    features: str = setting("off", choices=FEATURES)


def encode_pairs(
    table: pd.DataFrame, tokenizer, reading: Reading, cache_dir: str | Path | None = None, cut: str = "parts"
) -> Dataset:
    """Tokenise every pair, cutting prompt, A and B separately.

    Each part may use its share of the budget, and what one leaves unused goes to the others. A part that is too long
    keeps its last turn first, and of a turn its head and its tail.

    Args:
        table: from `load_pairs`. It may also have a teacher's probabilities (`soft`, a list a row, and `soft_weight`)
            and the names of the chatbots (`model_a`, `model_b`).
        cache_dir: where finished encodings are kept, keyed by text, tokenizer and settings.
        cut: "parts", or "right" for what the posted notebook did: the end of the sequence goes, and answer B with it.

    Returns:
        A `datasets.Dataset` in the table's order: `sequences` (1 or 2 lists of token ids), `length` (tokens of
        the longest), and `<part>_tokens`, `<part>_kept` for each part; `labels`, `soft_labels`, `soft_weight`, if the
        table has them; `names`, two numbers a row, if it has them, `UNKNOWN` for chatbots of few pairs; `features`, if
        they are wanted: the numbers of A, of B, and the shared ones.
    """
    check_choice("cut", cut, CUTS)
    cutter = _Cutter(tokenizer, reading, cut)
    columns = {column: table[column].tolist() for column in TEXT_COLUMNS} | _targets(table)
    key = _encoding_key(columns, tokenizer, [*asdict(reading).values(), cut, module_digest(__name__)])
    cache = None if cache_dir is None else Path(cache_dir) / f"pairs-{key}.arrow"

    def encode() -> Dataset:
        encoded = Dataset.from_dict(columns).map(
            cutter,
            batched=True,
            batch_size=500,
            remove_columns=list(TEXT_COLUMNS),
            new_fingerprint=key,
            cache_file_name=str(cache) if cache else None,
            keep_in_memory=cache is None,
            desc=f"Tokenising {len(table):,} pairs",
        )
        if len(encoded) != len(table):
            raise ValueError(f"{len(encoded)} rows instead of {len(table)}")
        return encoded

    with writing(cache_dir or "memory"):
        if cache:
            cache.parent.mkdir(parents=True, exist_ok=True)
        try:
            return encode()
        except (OSError, ValueError) as error:  # pyarrow raises both about damaged files, without an error number
            if getattr(error, "errno", None) is not None:
                raise
            return _encode_again(cache, encode, error)


def _targets(table: pd.DataFrame) -> dict[str, list]:
    """What the model may learn from, by the name of its column in the dataset."""
    names = {"label": "labels", "soft": "soft_labels", "soft_weight": "soft_weight"}
    columns = {new: table[old].tolist() for old, new in names.items() if old in table}
    if {"model_a", "model_b"} <= set(table):
        both = table[["model_a", "model_b"]]
        counts = both.stack().value_counts()
        known = sorted(name for name in counts.index[counts >= FEWEST_PAIRS] if name)
        numbers = {name: number for number, name in enumerate(known)}
        columns["names"] = both.map(lambda name: numbers.get(name, UNKNOWN)).to_numpy().tolist()
    return columns


def _encode_again(cache: Path | None, encode, error: Exception) -> Dataset:
    if cache is None or not cache.is_file():
        raise error
    print(f"{cache} is damaged ({str(error).splitlines()[0][:100]}); the rows are tokenised again.", flush=True)
    cache.unlink()
    return encode()


def truncation_report(encoded: Dataset) -> pd.DataFrame:
    """How much of each part was cut: one row a part; lengths in tokens, the rest shares from 0 to 1."""
    rows = {}
    for part in TEXT_COLUMNS:
        tokens, kept = pd.Series(encoded[f"{part}_tokens"]), pd.Series(encoded[f"{part}_kept"])
        rows[part] = {
            "median tokens": tokens.median(),
            "95 % of rows below": tokens.quantile(0.95),
            "rows cut": (kept < tokens).mean(),
            "rows mostly cut": (kept < 0.5 * tokens).mean(),
            "tokens kept": kept.sum() / max(1, tokens.sum()),
        }
    return pd.DataFrame(rows).T.round(3)


def share_budget(needs: list[int], budget: int, shares: list[float]) -> list[int]:
    """Split `budget` tokens over parts: nobody gets more than it needs, the unused goes on by share."""
    granted = [0] * len(needs)
    hungry = [i for i, need in enumerate(needs) if need > 0]
    while hungry and budget > 0:
        total = sum(shares[i] for i in hungry)
        offer = {i: int(budget * shares[i] / total) for i in hungry}
        modest = [i for i in hungry if needs[i] <= offer[i]]
        if not modest:
            for i in hungry:
                granted[i] = offer[i]
            granted[hungry[-1]] += budget - sum(offer.values())
            break
        for i in modest:
            granted[i] = needs[i]
            budget -= needs[i]
        hungry = [i for i in hungry if i not in modest]
    return granted


def cut_right(parts: list[list[int]], budget: int) -> list[list[int]]:
    """What is left of each part when their concatenation is cut after `budget` tokens."""
    kept = []
    for ids in parts:
        kept.append(ids[: max(0, budget)])
        budget -= len(ids)
    return kept


class _Cutter:
    """Tokenises a batch of rows and cuts them to the budget."""

    def __init__(self, tokenizer, reading: Reading, cut: str):
        self.tokenizer, self.style, self.head_share, self.cut = tokenizer, reading.style, reading.head_share, cut
        self.features = reading.features != "off"
        answers = 2 if reading.style == "joint" else 1
        self.budget = reading.max_length - answers - 2  # [CLS], and a [SEP] after each part
        self.shares = [reading.prompt_share] + [(1 - reading.prompt_share) / answers] * answers
        self.newline = newline_id(tokenizer)
        self.gap = single_token_id(tokenizer, ("…", "...", ".")) or self.newline
        self.cls, self.sep = tokenizer.cls_token_id, tokenizer.sep_token_id

    def __call__(self, batch: dict) -> dict:
        parts = [self._tokenise(batch[column]) for column in TEXT_COLUMNS]
        rows = [self._row(*row) for row in zip(*parts)]
        out: dict[str, list] = {"sequences": [row[0] for row in rows]}
        out["length"] = [max(map(len, sequences)) for sequences in out["sequences"]]
        for i, part in enumerate(TEXT_COLUMNS):
            out[f"{part}_tokens"] = [_joined_length(turns) for turns in parts[i]]
            out[f"{part}_kept"] = [row[1][i] for row in rows]
        if self.features:
            out["features"] = count_features(pd.DataFrame({column: batch[column] for column in TEXT_COLUMNS}))
        return out

    def _tokenise(self, rows: list[list[str]]) -> list[list[list[int]]]:
        flat = [_BLANK_LINES.sub("\n\n", turn.strip()) for turns in rows for turn in turns]
        # verbose=False: "longer than the maximum" is what the cutting below is for.
        ids = iter(self.tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"])
        return [[next(ids) for _ in turns] for turns in rows]

    def _row(self, prompt, a, b) -> tuple[list[list[int]], list[int]]:
        if self.style == "joint":
            p, a, b = self._fit([prompt, a, b])
            return [[self.cls, *p, self.sep, *a, self.sep, *b, self.sep]], [len(p), len(a), len(b)]
        (pa, a), (pb, b) = self._fit([prompt, a]), self._fit([prompt, b])
        sequences = [[self.cls, *p, self.sep, *x, self.sep] for p, x in ((pa, a), (pb, b))]
        return sequences, [min(len(pa), len(pb)), len(a), len(b)]

    def _fit(self, parts: list[list[list[int]]]) -> list[list[int]]:
        if self.cut == "right":
            return cut_right([self._cut(turns, _joined_length(turns)) for turns in parts], self.budget)
        budgets = share_budget([_joined_length(turns) for turns in parts], self.budget, self.shares)
        return [self._cut(turns, budget) for turns, budget in zip(parts, budgets)]

    def _cut(self, turns: list[list[int]], budget: int) -> list[int]:
        kept: list[int] = []
        for turn in reversed(turns):
            room = budget - len(kept) - (1 if kept else 0)
            if room <= 0:
                break
            kept = self._head_and_tail(turn, room) + ([self.newline] if kept else []) + kept
        return kept

    def _head_and_tail(self, ids: list[int], budget: int) -> list[int]:
        if len(ids) <= budget:
            return ids
        head = round((budget - 1) * self.head_share)
        tail = budget - 1 - head
        return [*ids[:head], self.gap, *ids[len(ids) - tail :]]


def _joined_length(turns: list[list[int]]) -> int:
    return sum(map(len, turns)) + len(turns) - 1


def _encoding_key(columns: dict, tokenizer, settings: list) -> str:
    digest = hashlib.sha256(json.dumps([settings, list(columns)]).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for values in columns.values():
        for value in values:  # one by one: all of the text in one string would double the memory
            digest.update(json.dumps(value).encode())
    return digest.hexdigest()[:24]


def round_up(tokens: int) -> int:
    """The next multiple of 8: what the products of half-precision numbers on a GPU want."""
    return -(-tokens // 8) * 8


INPUTS = ("input_ids", "attention_mask", "features")
BESIDE = ("features", "labels", "soft_labels", "soft_weight", "names")  # columns that a batch has if its rows do


class PairCollator:
    """Pads the sequences of a batch to its longest, rounded up: input_ids and attention_mask (rows, sequences, tokens).

    Their `lengths` stay lists: a GPU would have to be waited for to read them. The columns `BESIDE` become tensors.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        longest = max(len(ids) for row in rows for ids in row["sequences"])
        shape = (len(rows), len(rows[0]["sequences"]), round_up(longest))
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        for i, row in enumerate(rows):
            for j, ids in enumerate(row["sequences"]):
                input_ids[i, j, : len(ids)] = ids
                attention_mask[i, j, : len(ids)] = 1
        batch = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}
        batch["lengths"] = [[len(ids) for ids in row["sequences"]] for row in rows]
        for name in BESIDE:
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch


def model_inputs(batch: dict, device: str | torch.device) -> dict:
    """What the model needs of a batch to predict, on `device`: no targets."""
    return {name: to_device(batch[name], device) for name in INPUTS if name in batch} | {"lengths": batch["lengths"]}
