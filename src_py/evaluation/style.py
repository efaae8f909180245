"""How every picture looks: readable in a light and in a dark page, and by colour-blind readers."""

from typing import Any

import matplotlib.pyplot as plt

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
_BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "fontsize": "small"}


def new_figure(*args, **options) -> tuple[Any, Any]:
    """As `plt.subplots`, in this project's style, whatever style the notebook has set."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(*args, layout="constrained", **options)
    plt.close(figure)  # what a cell displays is not shown a second time at its end
    return figure, axes


def legend_below(axes, columns: int = 2) -> None:
    """A legend under the x axis, where it covers nothing."""
    axes.legend(ncols=columns, **_BELOW)
