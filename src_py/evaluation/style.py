"""How every picture looks: readable in a light and in a dark page, and by colour-blind readers."""

import io
from typing import Any

import matplotlib.pyplot as plt
from IPython import get_ipython
from matplotlib.figure import Figure
from PIL import Image

# The palette of Okabe and Ito (jfly.uni-koeln.de/color), whose colours colour-blind readers tell apart. A curve also
# has a marker or a line style of its own, so that nothing depends on colour alone.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "//", "..", "xx", "--", "++")
DASHES = ("--", "-.", ":")
# A dark page must not shine through: some versions of IPython make figures transparent, and black text vanishes.
_STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.prop_cycle": plt.cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "black"),
}
COLOURS = 256  # of a picture in a notebook: one byte a pixel
_BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "fontsize": "small"}


class PageFigure(Figure):
    """A figure that is a third as large in a notebook as others: Kaggle does not save one of more than a megabyte."""

    def small_png(self) -> bytes:
        """The figure as a PNG file with `COLOURS` colours."""
        full, small = io.BytesIO(), io.BytesIO()
        self.savefig(full, format="png", bbox_inches="tight")
        picture = Image.open(full).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        picture.save(small, "PNG", optimize=True)
        return small.getvalue()


def new_figure(*args, **options) -> tuple[Any, Any]:
    """As `plt.subplots`, in this project's style, whatever style the notebook has set."""
    shell = get_ipython()
    if shell:
        shell.display_formatter.formatters["image/png"].for_type(PageFigure, PageFigure.small_png)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(*args, layout="constrained", FigureClass=PageFigure, **options)
    plt.close(figure)  # what a cell displays is not shown a second time at its end
    return figure, axes


def legend_below(axes, columns: int = 2) -> None:
    """A legend under the x axis, where it covers nothing."""
    axes.legend(ncols=columns, **_BELOW)
