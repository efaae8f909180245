"""Generated contest data from known probabilities, and tiny random encoders to try the recipes on."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sentencepiece
import torch
from scipy.special import softmax
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DebertaV2Model,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from src_py.pairs.contest import LMSYS

# Tie weight of Davidson's model and the scale of the quality gap: they give the real contest's class
# shares (.349/.342/.309) and a gap between constant predictor and Bayes that a tiny model can close.
TIE_WEIGHT, SIDE_BIAS, QUALITY_SCALE = 1.46, 0.03, 0.8
_SYLLABLES = ("ba", "co", "di", "fu", "ga", "he", "li", "mo", "nu", "pe", "ra", "si", "to", "vu", "we", "zo")


def words(rng: np.random.Generator, count: int) -> list[str]:
    """Distinct pseudo-words of two to four syllables."""
    made: dict[str, None] = {}
    while len(made) < count:
        made["".join(rng.choice(_SYLLABLES, size=rng.integers(2, 5)))] = None
    return list(made)


def make_pairs(
    rows: int, seed: int, quality_scale: float = QUALITY_SCALE, length_scale: float = 0.0
) -> tuple[pd.DataFrame, np.ndarray]:
    """Pairs in the contest's own format, warts included, and the true probabilities.

    An answer is good when it has many of the "good" words and few of the "bad" ones; who wins is drawn from
    Davidson's model of the quality gap, to which `length_scale` adds a taste for longer answers. Warts: nulls inside
    JSON lists, lone surrogates, empty answers, repeated prompts, several turns, line breaks, emoji.

    Returns:
        A frame with the columns of train.csv, and an array (rows, 3): probability of a, b and tie.
    """
    vocabulary = words(np.random.default_rng(0), 360)
    good, bad, neutral = vocabulary[:30], vocabulary[30:60], vocabulary[60:]
    rng = np.random.default_rng(seed)
    prompts: list[list[str]] = []
    answers: dict[str, list] = {"a": [], "b": []}
    quality: dict[str, list] = {"a": [], "b": []}
    for row in range(rows):
        turns = 1 if rng.random() < 0.87 else int(rng.integers(2, 4))
        repeat = row > 10 and rng.random() < 0.1
        prompts.append(prompts[rng.integers(row)] if repeat else [_sentence(rng, neutral, 4, 10) for _ in range(turns)])
        for side in "ab":
            texts, total = zip(*(_answer(rng, good, bad, neutral) for _ in prompts[-1]))
            answers[side].append(list(texts))
            quality[side].append(sum(total) / len(total))
    gap = quality_scale * (np.array(quality["a"]) - np.array(quality["b"])) / 2 + SIDE_BIAS / 2
    if length_scale:
        sizes = {side: np.array([sum(len(text.split()) for text in turns) for turns in answers[side]]) for side in "ab"}
        gap = gap + length_scale * np.log((1 + sizes["a"]) / (1 + sizes["b"])) / 2
    weights = np.stack([np.exp(gap), np.exp(-gap), np.full(rows, TIE_WEIGHT)], axis=1)
    truth = weights / weights.sum(1, keepdims=True)
    labels = (truth.cumsum(1) < rng.random((rows, 1))).sum(1)
    _add_warts(rng, answers)
    frame = pd.DataFrame({"id": rng.choice(10**9, size=rows, replace=False)})
    frame["model_a"], frame["model_b"] = "model-x", "model-y"
    for name, column in (("prompt", prompts), ("response_a", answers["a"]), ("response_b", answers["b"])):
        frame[name] = [json.dumps(turns) for turns in column]
    for k, name in enumerate(LMSYS.label_columns):
        frame[name] = (labels == k).astype(int)
    return frame, truth


def write_contest(
    folder: str | Path, train_rows: int, test_rows: int, seed: int = 0, length_scale: float = 0.0
) -> pd.DataFrame:
    """Write train.csv, test.csv and sample_submission.csv; returns the true probabilities with their ids."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    frame, truth = make_pairs(train_rows + test_rows, seed, length_scale=length_scale)
    test = frame[train_rows:]
    frame[:train_rows].to_csv(folder / "train.csv", index=False)
    test[["id", "prompt", "response_a", "response_b"]].to_csv(folder / "test.csv", index=False)
    sample = pd.DataFrame({"id": test["id"]} | dict.fromkeys(LMSYS.submission_columns, 1 / 3))
    sample.to_csv(folder / "sample_submission.csv", index=False)
    return pd.DataFrame(truth, columns=["a", "b", "tie"]).assign(id=frame["id"].astype(str))


def write_foreign(folder: str | Path, truth: pd.DataFrame, train_rows: int, seed: int = 0) -> None:
    """Somebody else's predictions of the rows that `write_contest` wrote: the truth, blurred, in two csv files.

    Args:
        truth: from `write_contest`; its first `train_rows` rows are the training rows.
    """
    folder, rng = Path(folder), np.random.default_rng(seed)
    folder.mkdir(parents=True)
    classes = ["a", "b", "tie"]
    logits = 0.5 * np.log(truth[classes].to_numpy()) + rng.normal(0, 0.45, (len(truth), 3))
    blurred = truth[["id"]].assign(**dict(zip(classes, softmax(logits, axis=1).T)))
    blurred[:train_rows].to_csv(folder / "oof.csv", index=False)
    blurred[train_rows:].to_csv(folder / "submission.csv", index=False)


def bayes_log_loss(truth: np.ndarray) -> float:
    """Expected log loss of a predictor that knows the true probabilities (rows, 3)."""
    return float(-(truth * np.log(truth)).sum(1).mean())


def write_tiny_deberta(folder: str | Path, seed: int = 0, hidden_size: int = 64, layers: int = 2) -> Path:
    """A DebertaV2 with random weights and a SentencePiece vocabulary, in the layout of deberta-v3's folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    special = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    spm = _sentencepiece(pad_id=0, bos_id=1, eos_id=2, unk_id=3, **special)
    (folder / "spm.model").write_bytes(spm)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    torch.manual_seed(seed)
    config = DebertaV2Config(
        # Like the real checkpoints, the matrix has more rows than the tokenizer has tokens.
        vocab_size=704,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * hidden_size,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=256,
        max_relative_positions=-1,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        layer_norm_eps=1e-7,
        initializer_range=0.05,
    )
    DebertaV2Model(config).save_pretrained(folder)
    return folder


def write_tiny(folder: str | Path, family: str, seed: int = 0, hidden_size: int = 64, layers: int = 2) -> Path:
    """A random encoder of a family, with a small vocabulary, in the layout of the family's public folders.

    Args:
        family: a key of `src_py.model.families.FAMILIES`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    size: dict[str, Any] = {"hidden_size": hidden_size, "intermediate_size": 4 * hidden_size}
    size |= {"num_hidden_layers": layers, "num_attention_heads": 4, "initializer_range": 0.05}
    _TINY[family](folder, seed, size)
    return folder


def _tiny_deberta(folder: Path, seed: int, size: dict[str, Any]) -> None:
    write_tiny_deberta(folder, seed, size["hidden_size"], size["num_hidden_layers"])


def _tiny_mdeberta(folder: Path, seed: int, size: dict[str, Any]) -> None:
    """Known by the size of its vocabulary alone: 64 MB of embeddings at hidden size 64."""
    _tiny_deberta(folder, seed, size)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    config.vocab_size = 251_000
    _save_random(config, folder, seed)


def _tiny_bert(folder: Path, seed: int, size: dict[str, Any]) -> None:
    _wordpiece(folder)
    _save_random(BertConfig(vocab_size=_VOCABULARY, **size), folder, seed)


def _tiny_electra(folder: Path, seed: int, size: dict[str, Any]) -> None:
    """Like the small public ones, with embeddings that are narrower than the layers."""
    _wordpiece(folder)
    _save_random(ElectraConfig(vocab_size=_VOCABULARY, embedding_size=size["hidden_size"] // 2, **size), folder, seed)


def _tiny_roberta(folder: Path, seed: int, size: dict[str, Any]) -> None:
    made = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    made.model.save(str(folder))  # vocab.json and merges.txt
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    tokens: dict[str, Any] = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = RobertaConfig(vocab_size=_VOCABULARY, max_position_embeddings=514, type_vocab_size=1, **tokens, **size)
    _save_random(config, folder, seed)


def _tiny_xlm_roberta(folder: Path, seed: int, size: dict[str, Any]) -> None:
    (folder / "sentencepiece.bpe.model").write_bytes(_sentencepiece(unk_id=0, bos_id=1, eos_id=2, pad_id=-1))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    tokens: dict[str, Any] = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = XLMRobertaConfig(vocab_size=_VOCABULARY, max_position_embeddings=514, type_vocab_size=1, **tokens, **size)
    _save_random(config, folder, seed)


def _tiny_modernbert(folder: Path, seed: int, size: dict[str, Any]) -> None:
    """With one layer of global attention and others that see 16 tokens."""
    names = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    made = _byte_level(list(names.values()))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192}
    described |= {f"{key}_token": token for key, token in names.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    tokens: dict[str, Any] = {
        "cls_token_id": 1,
        "sep_token_id": 2,
        "pad_token_id": 3,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = ModernBertConfig(vocab_size=_VOCABULARY, local_attention=16, **tokens, **size)
    _save_random(config, folder, seed)


# One writer a family; the keys are those of `src_py.model.families.FAMILIES`.
_TINY = {
    "deberta": _tiny_deberta,
    "mdeberta": _tiny_mdeberta,
    "bert": _tiny_bert,
    "roberta": _tiny_roberta,
    "xlm-roberta": _tiny_xlm_roberta,
    "electra": _tiny_electra,
    "modernbert": _tiny_modernbert,
}
_VOCABULARY, _PIECES = 704, 600  # rows of the matrix; tokens, as in deberta-v3 fewer


def _save_random(config, folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    AutoModel.from_config(config, trust_remote_code=False).save_pretrained(folder)


def _texts() -> list[str]:
    """Lines to make a vocabulary from, without line breaks and lone surrogates."""
    frame, _ = make_pairs(1500, seed=99)
    texts = [turn for cell in frame["response_a"] for turn in json.loads(cell) if turn]
    return [" ".join(text.split()).encode("utf-8", "replace").decode() for text in texts]


def _sentencepiece(**ids) -> bytes:
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_texts()),
        model_writer=file,
        vocab_size=_PIECES,
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
    )
    return file.getvalue()


def _wordpiece(folder: Path) -> None:
    """The vocabulary of an uncased BERT: letters, and the most frequent words whole. (tokenizers' own trainer numbers
    its pieces anew in every run.)"""
    words = Counter(word for text in _texts() for word in text.lower().split() if word.isalpha())
    letters = sorted(set("".join(words)))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "|", "…"]
    frequent = sorted(words, key=lambda word: (-words[word], word))
    vocabulary = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *frequent])
    (folder / "vocab.txt").write_text("\n".join(list(vocabulary)[:_PIECES]) + "\n", encoding="utf-8")
    described = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))


def _byte_level(special: list[str]) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_PIECES,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(_texts(), trainer)
    return made


def _sentence(rng, vocabulary: list[str], least: int, most: int) -> str:
    return " ".join(rng.choice(vocabulary, size=rng.integers(least, most + 1)))


def _answer(rng, good: list[str], bad: list[str], neutral: list[str]) -> tuple[str, int]:
    pluses, minuses = rng.poisson(3, size=2)
    tokens = [*rng.choice(good, pluses), *rng.choice(bad, minuses), *rng.choice(neutral, rng.integers(6, 18))]
    rng.shuffle(tokens)
    breaks = rng.random(len(tokens)) < 0.08
    return "".join(token + ("\n" if end else " ") for token, end in zip(tokens, breaks)).strip(), pluses - minuses


def _add_warts(rng, answers: dict[str, list]) -> None:
    for side in answers:
        for turns in answers[side]:
            draw = rng.random()
            if draw < 0.004:
                turns[-1] = None
            elif draw < 0.014:
                turns[-1] += " \ud83d"  # half of an emoji
            elif draw < 0.018:
                turns[-1] = ""
            elif draw < 0.05:
                turns[-1] += " 😀"
