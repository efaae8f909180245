"""Pictures of a blend: whose errors are alike, what each member brings, and calibration before and after."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from src_py.blend.weights import BlendChoice
from src_py.evaluation.baselines import class_shares
from src_py.evaluation.blend import logarithms
from src_py.evaluation.metrics import standard_error
from src_py.evaluation.report import calibration
from src_py.evaluation.style import BLUE, VERMILION, new_figure

_BEFORE, _AFTER = VERMILION, BLUE


def gains(members: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, np.ndarray]:
    """By member, what it saves against the constant predictor in nats, (rows,)."""
    labels = np.asarray(labels)
    rows = np.arange(len(labels))
    constant = -logarithms(class_shares(labels, next(iter(members.values())).shape[1]))[labels]
    return {name: constant + logarithms(predicted[rows, labels]) for name, predicted in members.items()}


def error_correlation(members: Mapping[str, np.ndarray], labels: np.ndarray) -> pd.DataFrame:
    """Correlation over rows of the members' log losses minus the constant predictor's, members by members. NaN for
    a member that is the constant predictor."""
    return pd.DataFrame(gains(members, labels)).corr()


def plot_correlation(members: Mapping[str, np.ndarray], labels: np.ndarray) -> Figure:
    """`error_correlation` as a heat map with numbers: members that err on other rows (near 0) bring a blend more."""
    table = error_correlation(members, labels)
    size = 2.5 + 0.5 * len(table)
    figure, axes = new_figure(figsize=(size + 1.5, size))
    image = axes.imshow(table, cmap="PuOr_r", vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(table.to_numpy()):
        color = "white" if abs(value) > 0.6 else "black"
        axes.text(j, i, f"{round(value, 2) + 0.0:.2f}", ha="center", va="center", color=color, fontsize="small")
    names = [_short(name) for name in table]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set(title="Whose errors are alike?")
    figure.colorbar(image, label="correlation over rows", shrink=0.8)
    return figure


def plot_worth(
    choice: BlendChoice, members: Mapping[str, np.ndarray], labels: np.ndarray, prompts: np.ndarray
) -> Figure:
    """Left, what each member and the honest blend save against the constant predictor; right, what leaving a member
    out of the blend costs. In nats with 95 % intervals; members that are not in the blend are hollow."""
    prompt = pd.factorize(np.asarray(prompts))[0]
    saved = gains({"blend, cross-fitted": choice.cross_fitted, **members}, labels)
    rows = len(saved)
    figure, (left, right) = new_figure(1, 2, figsize=(11, 1.8 + 0.32 * rows), sharey=True)
    alone = {name: (values.mean(), 1.96 * standard_error(values, prompt)) for name, values in saved.items()}
    inside = {name: name not in members or choice.table["weight"][name] > 0 for name in saved}
    _intervals(left, alone, inside, list(saved))
    costs = choice.table[["cost of leaving out", "cost +-"]]
    _intervals(right, {name: tuple(row) for name, row in costs.iterrows()}, inside, list(saved))
    for axes in (left, right):
        axes.axvline(0, color="black", linestyle="--", linewidth=1)
    left.set_yticks(range(rows), [_short(name) for name in saved], parse_math=False)
    left.invert_yaxis()
    left.set(xlabel="saved against the constant predictor (nats)", title="Alone")
    right.set(xlabel="cost of leaving it out (nats)", title="In the blend")
    return figure


def _intervals(axes, values: dict[str, tuple[float, float]], inside: dict[str, bool], order: list[str]) -> None:
    """One line a name. What lies further below 0 than the best lies above it is an arrow at the edge with its number:
    a single hopeless member would else squeeze all others into one point."""
    floor = -max(0.01, *(value + half for value, half in values.values() if np.isfinite(value + half)))
    for name, (value, half) in values.items():
        style = {"color": _AFTER, "markersize": 5, "markerfacecolor": _AFTER if inside[name] else "white"}
        place = order.index(name)
        if value < floor:
            axes.plot(floor, place, "<", **style)
            axes.text(floor, place, f"   {value:.2f}", va="center", fontsize="small")
        else:
            axes.errorbar(value, place, xerr=np.nan_to_num(half), fmt="o", capsize=2, **style)


def plot_calibration(choice: BlendChoice, labels: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Predicted probability against observed share of the honest blend, before and after calibration, by class: below
    the diagonal it is too sure."""
    figure, every = new_figure(1, len(classes), figsize=(3.7 * len(classes), 3.9), sharey=True)
    styles = (
        ("before calibration", choice.uncalibrated, _BEFORE, "o--"),
        ("after calibration", choice.cross_fitted, _AFTER, "s-"),
    )
    for number, (name, axes) in enumerate(zip(classes, every)):
        axes.plot([0, 1], [0, 1], color="0.5", linewidth=1)
        for label, probabilities, color, style in styles:
            predicted, observed = calibration(np.asarray(labels) == number, probabilities[:, number])
            axes.plot(predicted, observed, style, color=color, markersize=4, label=label if number == 0 else None)
        axes.set(xlabel="predicted probability", xlim=(0, 1), ylim=(0, 1))
        axes.set_title(name, parse_math=False)
    every[0].set(ylabel="observed share")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _short(name: str, most: int = 40) -> str:
    return name if len(name) <= most else name[: most - 3] + "..."
