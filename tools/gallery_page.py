"""An executed notebook as a page that GitHub shows: Markdown, tables, folded code, pictures as files beside it."""

import base64
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from html.parser import HTMLParser

import nbformat
from PIL import Image

from tools.build import HELPERS, SETUP
from tools.percent import SyncError

COLOURS = 128  # of a picture; a plot needs fewer
WIDTH = 110  # characters of a line of text: GitHub does not wrap what stands in a code block
_BAR = re.compile(r"\d+%\|")  # a progress bar of tqdm
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_KEPT_TAGS = frozenset(
    "a b blockquote br code details div em h3 h4 i li ol p pre strong summary table tbody td th thead tr ul".split()
)
_KEPT_ATTRIBUTES = frozenset(("align", "colspan", "href", "open", "rowspan"))
_OWN_LINE = frozenset("blockquote details div h3 h4 li ol p pre table tr ul".split())


def page(notebook: nbformat.NotebookNode, name: str) -> tuple[str, list[bytes]]:
    """The notebook as Markdown, without its helper cells and progress bars, and its pictures.

    Args:
        name: of the page; the pictures are linked as `name`-1.png and so on.

    Returns:
        The text, and the pictures (PNG) in the order of their numbers.

    Raises:
        SyncError: when a cell did not run to its end.
    """
    blocks: list[str] = []
    pictures: list[bytes] = []
    heading = name
    for cell in notebook.cells:
        if cell.source.startswith((HELPERS, SETUP)) or not cell.source.strip():
            continue
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)
            heading = found[-1] if found else heading
            blocks.append(cell.source)
        elif cell.cell_type == "code":
            _check_finished(cell, name)
            blocks.append(_folded_code(cell.source))
            for kind, content in _outputs(cell.outputs):
                if kind == "picture":
                    pictures.append(small_picture(base64.b64decode(content)))
                    blocks.append(f"![{name}: {heading}, picture {len(pictures)}]({name}-{len(pictures)}.png)")
                else:
                    shown = {"html": github_html, "text": _fenced}.get(kind, str.strip)
                    blocks.append(shown(content))
    return "\n\n".join(filter(None, blocks)) + "\n", pictures


def github_html(text: str) -> str:
    """HTML with the tags that GitHub shows, without styles, in one block of Markdown: it has no empty line.

    What `display:flex` lays out in a row becomes a row of a table, and a coloured box becomes a quotation.
    """
    reader = _Reader()
    reader.feed(text)
    reader.close()
    kept = "".join(reader.parts).replace("</tr></table>\n<table>\n<tr>", "</tr>\n<tr>")
    return re.sub(r"\n\s*", "\n", kept).strip()


def small_picture(png: bytes) -> bytes:
    """The picture with few colours, which is a third of its size and looks the same."""
    image: Image.Image = Image.open(io.BytesIO(png)).convert("RGBA")
    method = Image.Quantize.FASTOCTREE  # the only one for a picture that is transparent somewhere
    if image.getchannel("A").getextrema() == (255, 255):
        image, method = image.convert("RGB"), Image.Quantize.MEDIANCUT
    small = io.BytesIO()
    image.quantize(COLOURS, method=method, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return min(small.getvalue(), png, key=len)


class _Reader(HTMLParser):
    """Collects the tags and texts to keep, in `parts`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.dropped = 0  # depth inside <style> or <script>
        self.pre = 0
        self.boxes: list[tuple[str, str]] = []  # each open <div> and <span>, and what stands for it; "": nothing

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("style", "script"):
            self.dropped += 1
        elif tag in ("div", "span"):
            shown = self._shown_box(tag, dict(attrs).get("style") or "")
            self.boxes.append((tag, shown))
            self.parts.append({"row": "\n<table>\n<tr>", "td": "<td>", "": ""}.get(shown, f"\n<{shown}>"))
        elif tag in _KEPT_TAGS:
            self.pre += tag == "pre"
            kept = [(key, value) for key, value in attrs if key in _KEPT_ATTRIBUTES]
            words = "".join(f' {key}="{escape(value)}"' if value else f" {key}" for key, value in kept)
            self.parts.append(f"{chr(10) if tag in _OWN_LINE else ''}<{tag}{words}>")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "script"):
            self.dropped -= 1
        elif self.boxes and self.boxes[-1][0] == tag:
            shown = self.boxes.pop()[1]
            self.parts.append({"row": "</tr></table>", "td": "</td>", "": ""}.get(shown, f"</{shown}>"))
        elif tag in _KEPT_TAGS - {"br"}:
            self.pre -= tag == "pre"
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if self.dropped:
            return
        if self.pre:
            self.parts.append(escape(data, quote=False).replace("\n", "&#10;"))
        elif data.strip() or (data and "\n" not in data):
            # A dollar begins a formula.
            self.parts.append(escape(re.sub(r"\s+", " ", data), quote=False).replace("$", "&#36;"))

    def _shown_box(self, tag: str, style: str) -> str:
        if self.boxes and self.boxes[-1][1] == "row":
            return "td"
        if tag == "span":
            return ""
        if re.search(r"display:\s*flex", style):
            return "row"
        return "blockquote" if re.search(r"border-left|background", style) else "div"


def _check_finished(cell: nbformat.NotebookNode, name: str) -> None:
    status = cell.metadata.get("papermill", {}).get("status", "completed")
    failed = any(output.output_type == "error" for output in cell.outputs)
    if failed or status != "completed" or cell.execution_count is None:
        first = cell.source.strip().partition("\n")[0][:60]
        raise SyncError(
            f"{name}: the cell {first!r} did not run to its end; run the recipe again before its page is made."
        )


def _folded_code(source: str) -> str:
    lines = len(source.splitlines())
    what = "Configuration" if "class CFG" in source else "Code"
    summary = f"<summary>{what}, {lines} {'line' if lines == 1 else 'lines'}</summary>"
    return f"<details>{summary}\n\n{_fenced(source, 'python')}\n\n</details>"


def _outputs(outputs: Sequence[nbformat.NotebookNode]) -> Iterator[tuple[str, str]]:
    """(kind, content) of what a reader sees: "picture" (base64), "html", "markdown" or "text"; streams joined."""
    printed = ""
    for output in outputs:
        if output.output_type == "stream":
            printed += output.text
            continue
        kind, content = _richest(output.get("data", {}))
        if not kind:
            continue  # a progress bar between two lines
        if _plain(printed):
            yield "text", _plain(printed)
        printed = ""
        yield kind, content
    if _plain(printed):
        yield "text", _plain(printed)


def _richest(data: dict[str, str]) -> tuple[str, str]:
    """What GitHub can show of a displayed object; ("", "") for a widget, which is a progress bar here."""
    if "application/vnd.jupyter.widget-view+json" in data:
        return "", ""
    kinds = {"image/png": "picture", "text/markdown": "markdown", "text/html": "html", "text/plain": "text"}
    return next(((kind, data[mime]) for mime, kind in kinds.items() if mime in data), ("", ""))


def _plain(text: str) -> str:
    """Printed lines as a terminal leaves them, without bars and colours; long sentences wrapped."""
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in _ANSI.sub("", text).split("\n")]
    kept: list[str] = []
    for line in lines:
        if _BAR.search(line) or (not line and not (kept and kept[-1])):
            continue
        is_table = "  " in line.strip()
        kept += [line] if is_table or not line else textwrap.wrap(line, WIDTH, break_long_words=False)
    return "\n".join(kept).strip("\n")


def _fenced(text: str, language: str = "text") -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
