"""Load a tokenizer that keeps line breaks without shattering the text."""

from pathlib import Path

from transformers import AddedToken, AutoTokenizer

from src_py.errors import InputError

NEWLINE = "\n"
TOKENIZER_FILES = ("tokenizer.json", "spm.model", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
_BYTE_NEWLINE = "\u010a"  # how byte-level vocabularies (RoBERTa, ModernBERT) write the line break


def load_tokenizer(folder: str | Path):
    """The folder's tokenizer with "\\n" as one token of its own.

    DeBERTa's normalizer turns line breaks into spaces, BERT's and XLM-R's as well, and in chat answers they carry
    meaning (lists, code, paragraphs). Added as a plain string the token would be *normalized* itself, become empty,
    match between any two characters, and shatter all text into single letters (huggingface/tokenizers#1043);
    `normalized=False` matches it in the raw text, before the normalizer. Byte-level vocabularies (RoBERTa,
    ModernBERT) keep line breaks as they are: nothing is added there.

    Raises:
        InputError: when the folder has no tokenizer files, they cannot be read, the tokenizer lacks the tokens for the
            beginning and end of a sequence or for padding, or its own "\\n" shatters the text.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}); attach the complete model folder.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the libraries raise many kinds; the competitor needs the folder's name
        raise InputError(
            f"The tokenizer in {folder} cannot be read ({_first_line(error)}); attach the model folder again. "
            "A spm.model needs the packages sentencepiece and protobuf."
        ) from error
    absent = [name for name in ("cls_token", "sep_token", "pad_token") if getattr(tokenizer, f"{name}_id") is None]
    if absent:
        raise InputError(
            f"The tokenizer in {folder} has no {' and no '.join(absent)}; attach the encoder's own tokenizer files "
            "(tokenizer_config.json and special_tokens_map.json included)."
        )
    if _shatters(tokenizer):
        raise InputError(
            f'The tokenizer in {folder} was saved with "\\n" added as a plain string, which splits all text into '
            "single characters (huggingface/tokenizers#1043); attach the tokenizer files of the original model."
        )
    tokenizer.newline_added = not _keeps_newline(tokenizer)
    if tokenizer.newline_added:
        tokenizer.add_tokens([AddedToken(NEWLINE, normalized=False)])
    return tokenizer


def newline_id(tokenizer) -> int:
    """Id of the token for a line break."""
    added = tokenizer.get_added_vocab().get(NEWLINE)
    return tokenizer.convert_tokens_to_ids(_BYTE_NEWLINE) if added is None else added


def newline_added(tokenizer) -> bool:
    """Whether `load_tokenizer` added the line break, so that the model has no trained vector for it."""
    return getattr(tokenizer, "newline_added", NEWLINE in tokenizer.get_added_vocab())


def _shatters(tokenizer) -> bool:
    """Whether "\\n" is an added token that is normalized itself, to something else. Adding it again does not help
    (tokenizers 0.22)."""
    added, normalizer = tokenizer.get_added_vocab().get(NEWLINE), tokenizer.backend_tokenizer.normalizer
    if added is None or normalizer is None or not tokenizer.added_tokens_decoder[added].normalized:
        return False
    return normalizer.normalize_str(NEWLINE) != NEWLINE


def _keeps_newline(tokenizer) -> bool:
    if NEWLINE in tokenizer.get_added_vocab():
        return True
    return tokenizer.convert_tokens_to_ids(_BYTE_NEWLINE) in tokenizer("a\nb", add_special_tokens=False)["input_ids"]


def single_token_id(tokenizer, candidates: tuple[str, ...]) -> int | None:
    """Id of the first candidate text that the vocabulary holds as one token; None when it holds none."""
    for text in candidates:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return ids[0]
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
