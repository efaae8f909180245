"""Pictures of an ablation: learning curves, and what each repair is worth."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src_py.ablation.arms import label
from src_py.ablation.curves import PERCENT, LearningCurve
from src_py.ablation.results import main_size
from src_py.evaluation.style import BLUE, DASHES, MARKERS, ORANGE, PALETTE, new_figure
from src_py.kaggle.files import writing

ABOVE = 0.1  # nats above the constant predictor where the picture of the curves ends


def plot_curves(
    curve: pd.DataFrame,
    results: pd.DataFrame,
    arms: tuple[str, ...],
    lines: dict[str, float],
    laws: dict[str, LearningCurve],
    marks: dict[str, int] | None = None,
) -> Figure:
    """Log loss over training rows on a log axis: mean and spread over seeds, every run a dot.

    Args:
        curve: from `curve_table`; results: from `results_table`.
        lines: log losses to compare with, such as the constant predictor's.
        laws: fitted learning curves, drawn dotted with their intervals as far as forecasts go, and beside the largest
            size what the curve without it foretold.
        marks: sizes to name, such as where an extra file begins.
    """
    figure, axes = new_figure(figsize=(8.5, 5.6))
    shown = []
    for number, arm in enumerate(arms):
        color, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
        longest = int(curve[curve["arm"] == arm]["as_rows"].max()) if arm in set(curve["arm"]) else 0
        for as_rows in sorted({0, longest}):
            rows = curve[(curve["arm"] == arm) & (curve["as_rows"] == as_rows)].sort_values("rows")
            if rows.empty:
                continue
            shown.append(rows)
            dots = results[(results["arm"] == arm) & (results["as_rows"] == as_rows)]
            axes.plot(dots["rows"], dots["log_loss"], ".", color=color, alpha=0.4)
            axes.errorbar(
                rows["rows"],
                rows["log loss"],
                rows["spread"].fillna(0),
                fmt=f"{marker}--" if as_rows else f"{marker}-",
                color=color,
                capsize=3,
                alpha=0.5 if as_rows else 1,
                label=f"{label(arm)}, control arm: steps of {as_rows:,} rows" if as_rows else label(arm),
            )
        if arm in laws:
            _draw_law(axes, arm, laws[arm], color)
    for dashes, (name, value) in zip(DASHES, lines.items()):
        axes.axhline(value, color="black", linestyle=dashes, linewidth=1, label=f"{name} {value:.4f}")
    if shown and lines:
        _cut_off_far_above(axes, pd.concat(shown), max(lines.values()))
    for name, size in (marks or {}).items():
        axes.axvline(size, color="0.7", linewidth=1)
        axes.text(size, axes.get_ylim()[0], f" {name}", rotation=90, va="bottom", ha="right", color="0.4")
    axes.set(xscale="log", xlabel="training rows", ylabel="validation log loss", title="Is it the data, or the code?")
    sizes = sorted(curve["rows"].unique())
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")  # within, it would hide curves
    return figure


def _cut_off_far_above(axes: Axes, shown: pd.DataFrame, line: float) -> None:
    """Losses far above what predicts nothing would squeeze all others: an arrow with the figure stands for them."""
    top = line + ABOVE
    far = shown[shown["log loss"] > top]
    if far.empty:
        return
    axes.set_ylim(top=top)
    for rows, losses in far.groupby("rows")["log loss"]:
        axes.annotate(
            ", ".join(f"{loss:.2f}" for loss in sorted(losses)),
            (rows, top),
            (0, -28),
            textcoords="offset points",
            ha="center",
            color="0.3",
            arrowprops={"arrowstyle": "->", "color": "0.3"},
        )


def _draw_law(axes: Axes, arm: str, law: LearningCurve, color: str) -> None:
    sizes, band = law.band()
    axes.plot(sizes, band[:, 0], ":", color=color, label=f"{label(arm)}, fitted, with {PERCENT}")
    axes.fill_between(sizes, band[:, 1], band[:, 2], color=color, alpha=0.12, linewidth=0)
    foretold = law.hindcast
    if foretold:
        reach = [[foretold.best - foretold.low], [foretold.high - foretold.best]]
        beside = 1.06 * foretold.rows  # not on top of what was measured
        name = f"{label(arm)}, foretold from {foretold.last:,} rows"
        axes.errorbar([beside], [foretold.best], reach, fmt="D", mfc="white", color=color, capsize=3, label=name)


def plot_repairs(repairs: pd.DataFrame) -> Figure | None:
    """What each repair is worth in nats, with its 95 % interval, at the `main_size`; None if none was measured."""
    if repairs.empty:
        return None
    size = main_size(repairs)
    rows = repairs[repairs["rows"] == size]
    names = list(dict.fromkeys(rows.sort_values("worth")["repair"]))
    figure, axes = new_figure(figsize=(8.5, 1.5 + 0.45 * len(names)))
    looks = (("added to posted", BLUE, "o", -0.15), ("taken from recipe", ORANGE, "s", 0.15))
    for how, color, marker, shift in looks:
        side = rows[rows["how"] == how]
        heights = [names.index(name) + shift for name in side["repair"]]
        reach = np.abs(side[["at least", "at most"]].to_numpy().T - side["worth"].to_numpy())
        axes.errorbar(side["worth"], heights, xerr=reach, fmt=marker, color=color, capsize=3, label=how)
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set(xlabel="log loss saved, nats (95 %)", title=f"What each repair is worth at {size:,} rows")
    axes.set_yticks(range(len(names)), names)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture.

    Raises:
        InputError: when the folder cannot be written or the disk is full.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
