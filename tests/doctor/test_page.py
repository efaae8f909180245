"""The page of a report: what to do first on top, the rest folded, every text quoted and none of it markup."""

import re
from html.parser import HTMLParser

import pytest

from src_py.doctor.findings import Finding, Report

RATE = Finding("learning rate", "FAIL", "1.0e-01", "at most 4.0e-03", "Set CFG.lr near 1.0e-03.", {"lr": 1e-3})
CRASH = Finding("first step", "FAIL", "ValueError: <script>x()</script> & 'y'", "runs", 'Fix "what" it <b>names</b>.')
WARMUP = Finding("warmup", "WARN", "0% of the steps", "2% to 30%", "Set CFG.warmup.")
LABELS = Finding("labels", "PASS", "shares 0.5 0.5 <i>", "each class 1% to 98%")
START = Finding("loss at the start", "not checked", "regression", "for classes only")
MEMORY = Finding("memory", "not checked", "no GPU to hold\n3.1 GB", "of the card")


class Parsed(HTMLParser):
    """Tags, attributes and text; fails where a tag is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append((data, "details" in self.open, "summary" in self.open))

    def text(self, folded):
        return " ".join(word for word, inside, title in self.words if (inside and not title) == folded)


def test_what_to_do_first_is_on_top_and_the_rest_is_folded():
    report = Report([RATE, CRASH, WARMUP, LABELS, START, MEMORY], 3.21)
    page = Parsed(report._repr_html_())
    shown, folded = page.text(False), page.text(True)
    assert shown.startswith("2 FAILs, 1 warning. First: learning rate (1.0e-01). Set CFG.lr near 1.0e-03.")
    for finding in (RATE, CRASH, WARMUP):
        for text in (finding.status, finding.check, finding.measured, finding.limit, finding.advice):
            assert text in shown
    assert "1 of 6 checks passed, in 3.2 s" in shown
    assert "2 not checked" in shown
    assert "shares" not in shown
    for text in (
        "labels",
        "shares 0.5 0.5 <i>",
        "each class 1% to 98%",
        "regression, for classes only",
        "no GPU to hold",
    ):
        assert text in folded
    assert "repair()" in shown


def test_nothing_but_the_page_s_own_tags_and_no_script():
    page = Parsed(Report([RATE, CRASH, WARMUP, LABELS, START], 1.0)._repr_html_())
    assert set(page.tags) <= {"div", "p", "b", "span", "details", "summary"}
    assert {name for name, _ in page.attributes} == {"style"}


def test_it_is_readable_in_light_and_dark_themes():
    """Text takes the theme's colour, unless it brings its own background along; and nothing is clipped."""
    styles = re.findall(r'style="([^"]*)"', Report([RATE, WARMUP, LABELS, START], 1.0)._repr_html_())
    for style in styles:
        assert ("background:" in style) == (re.search(r"(^|;)color:", style) is not None)
        assert "nowrap" not in style
        assert "hidden" not in style
        for background, color in re.findall(r"background:(#\w{6});color:(#\w{3})", style):
            assert contrast(background, color) > 4.5


def contrast(one: str, other: str) -> float:
    """Of two colours as WCAG defines it."""

    def luminance(color):
        digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        parts = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(part * weight for part, weight in zip(parts, (0.2126, 0.7152, 0.0722)))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_text_for_logs_says_the_same():
    text = repr(Report([RATE, CRASH, WARMUP, LABELS, START, MEMORY], 3.21))
    assert text.splitlines() == [
        "2 FAILs, 1 warning. First: learning rate (1.0e-01). Set CFG.lr near 1.0e-03.",
        "",
        "FAIL  learning rate: 1.0e-01; right: at most 4.0e-03",
        "      Set CFG.lr near 1.0e-03.",
        "FAIL  first step: ValueError: <script>x()</script> & 'y'; right: runs",
        '      Fix "what" it <b>names</b>.',
        "WARN  warmup: 0% of the steps; right: 2% to 30%",
        "      Set CFG.warmup.",
        "Its repair(), as in checked.repair(), shows the settings to change as a diff, and changes nothing.",
        "",
        "1 of 6 checks passed, in 3.2 s.",
        "2 not checked:",
        "  loss at the start: regression, for classes only",
        "  memory: no GPU to hold 3.1 GB",
    ]


@pytest.mark.parametrize("findings", [[LABELS, START], [LABELS], [START]])
def test_where_nothing_is_wrong_the_first_sentence_says_so(findings):
    report = Report(findings, 1.0)
    assert repr(report).startswith("Nothing found that would keep this from learning.\n")
    assert Parsed(report._repr_html_()).text(False).startswith("Nothing found that would keep this from learning.")
    assert "repair()" not in repr(report)


@pytest.mark.parametrize(
    ("findings", "said"),
    [([RATE], "1 FAIL."), ([WARMUP, WARMUP], "2 warnings."), ([RATE, WARMUP], "1 FAIL, 1 warning.")],
)
def test_counts_are_words(findings, said):
    assert repr(Report(findings, 1.0)).startswith(said)
