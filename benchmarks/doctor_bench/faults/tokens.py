"""Faults of the tokenizer, of padding and of the attention mask."""

import numpy as np
import torch

from benchmarks.doctor_bench.case import OURS, PLAIN, Case
from benchmarks.doctor_bench.fault import fault
from benchmarks.doctor_bench.faults.data import texts


def sequences(case: Case, change) -> None:
    """Change the token ids of every sequence after tokenising."""

    def edit(data, part):
        def one(row):
            if "sequences" in row:
                found = [change(ids) for ids in row["sequences"]]
                return {"sequences": found, "length": max(map(len, found))}
            ids = change(row["input_ids"])
            return {"input_ids": ids, "attention_mask": [1] * len(ids)}

        return data.map(one)

    case.edit_rows.append(edit)


def mask(case: Case, change) -> None:
    """Change the attention mask of every batch."""

    def wrap(batch):
        batch["attention_mask"] = change(batch["attention_mask"])
        return batch

    case.make_collator(wrap)


@fault("tokenizer", before=("tokens per character",), encoders=("deberta",))
def line_break_shatters_the_text(case):
    from transformers import AutoTokenizer

    case.from_tokenizer = AutoTokenizer.from_pretrained
    case.edit_tokenizer.append(lambda tokenizer: tokenizer.add_tokens(["\n"]) and None)


@fault("tokenizer", before=("embedding rows",), kinds=(PLAIN,))
def added_tokens_without_rows(case):
    case.edit_tokenizer.append(lambda tokenizer: tokenizer.add_tokens([f"<new{i}>" for i in range(400)]) and None)
    texts(case, lambda text: "<new390> " + text)


@fault("tokenizer", before=("added tokens' norms",), kinds=(PLAIN,))
def added_tokens_with_silent_rows(case):
    """A token in every text whose row is near zero, as mean-resizing leaves it."""
    case.edit_tokenizer.append(lambda tokenizer: tokenizer.add_tokens(["<text>"]) and None)
    texts(case, lambda text: "<text> " + text)

    def edit(model):
        row = len(case.tokenizer) - 1
        model.get_input_embeddings().weight.data[row] = 1e-4

    case.edit_model.append(edit)


@fault("tokenizer", before=("special tokens",))
def no_special_tokens(case):
    """The first token is a word, and the model reads the whole text from it."""
    special = lambda: {case.tokenizer.cls_token_id, case.tokenizer.sep_token_id}  # noqa: E731
    sequences(case, lambda ids: [i for i in ids if i not in special()] or ids[:1])


@fault("tokenizer", before=("special tokens",))
def special_tokens_twice(case):
    cls, sep = (lambda: case.tokenizer.cls_token_id), (lambda: case.tokenizer.sep_token_id)
    sequences(case, lambda ids: [cls(), cls(), *ids[1:-1], sep(), sep()])


@fault("tokenizer", before=("special tokens",))
def special_tokens_exchanged(case):
    def change(ids):
        cls, sep = case.tokenizer.cls_token_id, case.tokenizer.sep_token_id
        return [{cls: sep, sep: cls}.get(i, i) for i in ids]

    sequences(case, change)


@fault("tokenizer", kinds=(PLAIN,), before=("padding",))
def padding_on_the_left(case):
    """The first token of a short text is then padding."""
    case.edit_tokenizer.append(lambda tokenizer: setattr(tokenizer, "padding_side", "left"))


@fault("tokenizer", kinds=(PLAIN,), before=("tokens in a batch", "padding"))
def attention_mask_missing(case):
    case.make_collator(lambda batch: {name: value for name, value in batch.items() if name != "attention_mask"})


@fault("tokenizer", before=("tokens in a batch", "padding"))
def attention_mask_of_ones(case):
    mask(case, torch.ones_like)


@fault("tokenizer", before=("tokens in a batch", "padding"))
def attention_mask_inverted(case):
    mask(case, lambda known: 1 - known)


@fault("tokenizer", before=("tokens in a batch", "padding"))
def attention_mask_hides_half(case):
    """A mask that was made for a shorter length."""
    mask(case, lambda known: known * (torch.arange(known.shape[-1]) < known.shape[-1] // 3))


@fault("tokenizer", before=("tokens of the text",))
def another_models_vocabulary(case):
    """Ids of another tokenizer: each word has another word's row."""

    def change(ids):
        order = np.random.default_rng(3).permutation(np.arange(8, 590))
        return [int(order[i - 8]) if 8 <= i < 590 else i for i in ids]

    sequences(case, change)


@fault("tokenizer", before=("padding in the rows",))
def padding_read_as_text(case):
    """Rows are padded before the tokenizer's own padding, with the unknown token and a mask of ones."""
    unknown = lambda: case.tokenizer.unk_token_id  # noqa: E731
    sequences(case, lambda ids: ids + [unknown()] * (case.max_length - len(ids)))


@fault("tokenizer", before=("sequence length", "first step"), kinds=(PLAIN,), encoders=("bert", "electra", "roberta"))
def longer_than_the_model_reads(case):
    case.max_length = 600
    texts(case, lambda text: " ".join([text] * 60))

    def few(tables):
        for part in tables:
            tables[part] = tables[part].iloc[:80].reset_index(drop=True)

    case.edit_tables.append(few)


@fault("tokenizer", kinds=(OURS,), before=("two answers",))
def prompt_only(case):
    """Both answers are dropped after tokenising; what is left is the prompt."""

    def change(ids):
        end = ids.index(case.tokenizer.sep_token_id)
        return ids[: end + 1]

    sequences(case, change)


@fault("tokenizer", before=("tokens of the text",))
def vocabulary_shifted_by_one(case):
    """Every token is its neighbour in the vocabulary: an offset of one, as of a missing special token."""
    sequences(case, lambda ids: [i if i < 8 else min(i + 1, 590) for i in ids])
