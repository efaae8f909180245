"""The small world of the benchmark: rows that can be learned, and tiny encoders that were trained on its language.

Faults like "the pretrained weights were not loaded" only cost something where pretraining is worth something, so the
tiny encoders are trained before: they learn to count the words of each group, from the first token's vector.
"""

import hashlib
import inspect
import json
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModel, AutoTokenizer

from src_py.pairs.contest import LMSYS
from src_py.pairs.load import load_pairs
from tools import demo_data
from tools.demo_data import make_pairs, words, write_tiny

FAMILIES = ("deberta", "bert", "roberta", "electra", "modernbert")
GROUP, GROUPS = 30, 12  # words in a group, and groups: the generated contests' vocabulary has 360 words
TRAIN, VALID, TEST = 672, 240, 600  # rows; of 16 a step, two and a half epochs are 105 steps
LANGUAGES = {"greek": "αβγδεζηθικλμνξοπρστυφχψω", "russian": "абвгдежзиклмнопрстуфхцчшщэюя"}
PRETRAINING_STEPS = 400
COMPARING, COMPARING_STEPS = ("bert",), 1000  # it learns to read two answers in one sequence, too


@lru_cache(1)
def vocabulary() -> tuple[list[str], ...]:
    """The words of each group; the first two are the contests' good and bad words."""
    known = words(np.random.default_rng(0), GROUP * GROUPS)
    return tuple(known[i * GROUP : (i + 1) * GROUP] for i in range(GROUPS))


def classification(
    classes: int = 3,
    seed: int = 0,
    shares: tuple[float, ...] | None = None,
    noise: float = 0.05,
    length: tuple[int, int] = (10, 24),
    rows: tuple[int, int, int] = (TRAIN, VALID, TEST),
) -> dict[str, pd.DataFrame]:
    """Tables train, valid and test of single texts; a label is the group whose words are frequent in the text.

    Each has the columns of `load_pairs`' tables, with the text as answer A, so that the verdict can judge them.

    Args:
        noise: share of the labels of training and validation rows that are drawn anew; test labels are true.
        length: least and greatest number of words.
    """
    groups, tables = vocabulary(), {}
    for number, (part, count) in enumerate(zip(("train", "valid", "test"), rows)):
        rng = np.random.default_rng((seed, number, classes))
        labels = rng.choice(classes, size=count, p=shares)
        texts = []
        for label in labels:
            size = int(rng.integers(length[0], length[1] + 1))
            odds = np.r_[np.full(classes, 0.07), np.full(GROUPS - 5, (1 - 0.07 * (classes - 1) - 0.3) / (GROUPS - 5))]
            odds[label] = 0.3
            kinds = rng.choice([*range(classes), *range(5, GROUPS)], size=size, p=odds / odds.sum())
            texts.append(" ".join(groups[kind][rng.integers(GROUP)] for kind in kinds))
        if part != "test":
            redrawn = rng.random(count) < noise
            labels = np.where(redrawn, rng.choice(classes, size=count, p=shares), labels)
        tables[part] = pd.DataFrame(
            {
                "id": [f"{part}{i}" for i in range(count)],
                "prompt": [[f"{part}{i}"] for i in range(count)],
                "response_a": [[text] for text in texts],
                "response_b": [[""] for _ in texts],
                "label": labels.astype(int),
            }
        )
    return tables


@lru_cache(8)
def _pairs(folder: str, seed: int, length_scale: float, rows: tuple[int, int, int]) -> dict[str, pd.DataFrame]:
    frame, _ = make_pairs(sum(rows), seed, quality_scale=2.5, length_scale=length_scale)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as own:  # other processes make the same table
        frame.to_csv(Path(own) / "pairs.csv", index=False)
        table, _ = load_pairs(Path(own) / "pairs.csv", LMSYS)
    # Rows with a prompt that has occurred before are left out: the parts must not share prompts.
    keys = table["prompt"].map(json.dumps)
    table = table[~keys.duplicated()].reset_index(drop=True)
    ends = np.cumsum([0, *np.floor(np.array(rows) / sum(rows) * len(table)).astype(int)])
    parts = zip(("train", "valid", "test"), ends, ends[1:])
    return {part: table[start:end].reset_index(drop=True) for part, start, end in parts}


def pairs(folder: Path, seed: int = 0, length_scale: float = 0.0, rows=(TRAIN, VALID, TEST)) -> dict[str, pd.DataFrame]:
    """Tables train, valid and test of the generated contest, read by `load_pairs`, without repeated prompts."""
    grown = tuple(round(1.25 * count) for count in rows)  # about a fifth of the rows repeats a prompt
    return {part: table.copy() for part, table in _pairs(str(folder), seed, length_scale, grown).items()}


def in_language(text: str, letters: str) -> str:
    """The same text in another alphabet, letter by letter."""
    return "".join(letters[ord(c) % len(letters)] if c.isalpha() else c for c in text)


def encoder(folder: Path, family: str, seed: int = 0) -> Path:
    """The folder of a tiny encoder of `family` that knows the words; made when it is not there, or of other code."""
    made, mark = folder / family, folder / family / "made-by"
    if not mark.is_file() or mark.read_text() != _code():
        write_tiny(made, family, seed)
        _pretrain(made, seed, family in COMPARING)
        mark.write_text(_code())
    return made


def _code() -> str:
    sources = inspect.getsource(_pretrain) + inspect.getsource(_words) + inspect.getsource(demo_data)
    return hashlib.sha256(
        f"{sources} {PRETRAINING_STEPS} {COMPARING} {COMPARING_STEPS} {GROUPS} {GROUP}".encode()
    ).hexdigest()[:20]


def _pretrain(folder: Path, seed: int, comparing: bool) -> None:
    """Count the words of each group in a text; `comparing`: every second step, those of answer A minus those of B."""
    steps = COMPARING_STEPS if comparing else PRETRAINING_STEPS
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    heads = torch.nn.ModuleList(torch.nn.Linear(model.config.hidden_size, GROUPS) for _ in range(2))
    trained = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    model.train()
    for step in range(steps):
        compares = step % 2 if comparing else 0
        made = [[_words(rng) for _ in range(1 + 2 * compares)] for _ in range(16)]
        texts = [f" {tokenizer.sep_token} ".join(text for text, _ in parts) for parts in made]
        counts = [parts[1][1] - parts[2][1] if compares else parts[0][1] for parts in made]
        targets = torch.tensor(np.array(counts) / 4, dtype=torch.float32)
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        mask = batch["attention_mask"].unsqueeze(-1)
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        loss = sum(torch.nn.functional.mse_loss(heads[compares](x), targets) for x in (hidden[:, 0], pooled * 2))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)


def _words(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A text of some groups' words, and how many of each group it has."""
    kinds = rng.choice(GROUPS, size=rng.integers(4, 26), p=rng.dirichlet(np.full(GROUPS, 0.7)))
    text = " ".join(vocabulary()[kind][rng.integers(GROUP)] for kind in kinds)
    return text, np.bincount(kinds, minlength=GROUPS)
