"""Turn the cells of a text column into lists of turns, and count every repair."""

import json
from collections import Counter
from typing import Any

REPAIRS = {
    "null turn": "read as an empty turn",
    "missing cell": "read as one empty turn",
    "not a JSON list": "read as plain text",
    "JSON list in a plain column": "read as plain text",
    "line break inside JSON": "kept",
    "not a text": "written out as text",
    "undecodable bytes": "replaced by U+FFFD",
    "NUL character": "removed",
    "lone surrogate": "replaced by U+FFFD",
    "empty answer": "kept",
}


class TurnReader:
    """Reads one column after the other and adds up what was repaired.

    Attributes:
        counts: how often each of `REPAIRS` was needed.
        undecodable: numbers of the rows in which some byte was not UTF-8.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(REPAIRS, 0))
        self.undecodable: set[int] = set()

    def read(self, cells: list[Any]) -> tuple[list[list[str]], int | None]:
        """The turns of every cell of one column, at least one turn a cell.

        A column holds JSON lists when half or more of its cells are in brackets, otherwise plain texts. White space
        around a cell and missing cells have no say in that.

        Args:
            cells: from `read_cells`: None, str, list of str and None, or another scalar.

        Returns:
            The turns, and the number of the first cell that is not what its column holds (None if all are).
        """
        texts = [self._mended(cell, row) if isinstance(cell, str) else cell for row, cell in enumerate(cells)]
        present = [text for text in texts if isinstance(text, str) and text.strip()]
        as_json = bool(present) and 2 * sum(map(_in_brackets, present)) >= len(present)
        turns, first_bad = [], None
        for row, text in enumerate(texts):
            found = self._turns(text, as_json, row)
            if found is None:
                first_bad = row if first_bad is None else first_bad
                found = [str(text)]
            turns.append([self._clean(turn) for turn in found])
        return turns, first_bad

    def _turns(self, cell: Any, as_json: bool, row: int) -> list[str] | None:
        if cell is None or cell != cell:  # NaN in a column of numbers
            self.counts["missing cell"] += 1
            return [""]
        if isinstance(cell, list):
            self.counts["null turn"] += cell.count(None)
            return [self._mended(turn or "", row) for turn in cell] or [""]
        if not isinstance(cell, str):
            self.counts["not a text"] += 1
            return None
        parsed = self._json_list(cell, as_json) if as_json or _in_brackets(cell) else None
        if not as_json:
            self.counts["JSON list in a plain column"] += parsed is not None
            return [cell]
        if parsed is None:
            self.counts["not a JSON list"] += 1
            return None
        self.counts["null turn"] += parsed.count(None)
        return [turn or "" for turn in parsed] or [""]

    def _json_list(self, cell: str, count: bool) -> list[str | None] | None:
        try:
            turns = json.loads(cell)
        except (ValueError, RecursionError):
            try:
                turns = json.loads(cell, strict=False)
                self.counts["line break inside JSON"] += count
            except (ValueError, RecursionError):
                return None
        right = isinstance(turns, list) and all(turn is None or isinstance(turn, str) for turn in turns)
        return turns if right else None

    def _mended(self, text: str, row: int) -> str:
        """Without NUL characters and without bytes that could not be decoded (`surrogateescape`)."""
        if "\0" in text:
            self.counts["NUL character"] += 1
            text = text.replace("\0", "")
        if not _has_surrogate(text):
            return text
        data = text.encode("utf-8", "surrogateescape")
        try:
            return data.decode("utf-8", "surrogatepass")  # half an emoji as bytes, which Python itself can write
        except UnicodeDecodeError:
            self.counts["undecodable bytes"] += 1
            self.undecodable.add(row)
            return data.decode("utf-8", "replace")

    def _clean(self, text: str) -> str:
        if not _has_surrogate(text):
            return text
        self.counts["lone surrogate"] += 1
        # A round trip through UTF-16 joins a proper pair and leaves only the lone ones to replace.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _has_surrogate(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()  # several times as fast as a search by regular expression
    except UnicodeEncodeError:
        return True
    return False


def _in_brackets(text: str) -> bool:
    text = text.strip()
    return text.startswith("[") and text.endswith("]")
