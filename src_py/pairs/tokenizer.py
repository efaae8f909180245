"""Load a tokenizer that keeps line breaks without shattering the text."""

from pathlib import Path

from transformers import AddedToken, AutoTokenizer

from src_py.errors import InputError

NEWLINE = "\n"
_TOKENIZER_FILES = ("tokenizer.json", "spm.model", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")


def load_tokenizer(folder: str | Path):
    """The folder's tokenizer with "\\n" as one token of its own.

    DeBERTa's normalizer turns line breaks into spaces, and in chat answers they carry meaning (lists,
    code, paragraphs). Added as a plain string the token would be *normalized* itself, become empty, match
    between any two characters, and shatter all text into single letters (huggingface/tokenizers#1043);
    `normalized=False` matches it in the raw text, before the normalizer.

    Raises:
        InputError: when the folder has no tokenizer files or they cannot be read.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(
            f"{folder} has no tokenizer ({', '.join(_TOKENIZER_FILES[:3])}); attach the complete model folder."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the libraries raise many kinds; the competitor needs the folder's name
        raise InputError(
            f"The tokenizer in {folder} cannot be read ({_first_line(error)}); attach the model folder again. "
            "A spm.model needs the packages sentencepiece and protobuf."
        ) from error
    tokenizer.add_tokens([AddedToken(NEWLINE, normalized=False)])
    return tokenizer


def newline_id(tokenizer) -> int:
    """Id of the token for a line break."""
    return tokenizer.convert_tokens_to_ids(NEWLINE)


def single_token_id(tokenizer, candidates: tuple[str, ...]) -> int | None:
    """Id of the first candidate text that the vocabulary holds as one token; None when it holds none."""
    for text in candidates:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return ids[0]
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
