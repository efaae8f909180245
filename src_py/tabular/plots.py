"""Pictures of the LightGBM recipe."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from src_py.evaluation.style import BLUE, HATCHES, ORANGE, VERMILION, new_figure
from src_py.tabular.models import Boosted
from src_py.tabular.sides import Sides


def plot_models(table: pd.DataFrame, spread: pd.DataFrame, constant: float) -> Figure:
    """Improvement in log loss over the constant predictor, by feature group (rows) and model (columns), with the
    standard deviation over folds."""
    figure, axes = new_figure(figsize=(9, 3.8))
    width = 0.8 / len(table.columns)
    for number, model in enumerate(table.columns):
        places = np.arange(len(table)) + (number - (len(table.columns) - 1) / 2) * width
        looks = {"hatch": HATCHES[number % len(HATCHES)], "edgecolor": "white", "ecolor": "black"}
        axes.bar(places, constant - table[model], width, yerr=spread[model], capsize=3, label=model, **looks)
    axes.axhline(0, color=VERMILION, linestyle="--", linewidth=1, label=f"constant predictor {constant:.4f}")
    axes.set_xticks(range(len(table)), table.index)
    axes.set(ylabel="improvement in log loss (nats)", title="Which features, which model?")
    figure.legend(loc="outside lower center", ncols=len(table.columns) + 1, fontsize="small")
    return figure


def plot_boosting(boosters: dict[int, Boosted], sides: dict[str, Sides]) -> Figure:
    """LightGBM's log loss over rounds on the rows it stops by, one line a fold; and its gain by feature group.

    Args:
        boosters: by fold, fitted on the groups of `sides` in their order.
        sides: features by group, of any rows.
    """
    figure, (left, right) = new_figure(1, 2, figsize=(11, 3.6))
    for number, model in enumerate(boosters.values()):
        best = int(np.argmin(model.curve))
        labels = ("a fold", "where it stops") if number == 0 else (None, None)
        left.plot(np.arange(1, len(model.curve) + 1), model.curve, color=BLUE, alpha=0.6, label=labels[0])
        left.plot(best + 1, model.curve[best], "o", color=ORANGE, markeredgecolor="black", label=labels[1])
    left.set(xlabel="rounds", ylabel="log loss", title="When LightGBM stops")
    figure.legend(loc="outside lower left", ncols=2, fontsize="small")
    shares = pd.DataFrame({fold: gain_by_group(model, sides) for fold, model in boosters.items()})
    shares = shares.loc[shares.mean(axis=1).sort_values().index]
    right.barh(shares.index, shares.mean(axis=1), xerr=shares.std(axis=1).fillna(0), capsize=3, color=BLUE)
    right.set(xlabel="share of the gain", title="What the trees use")
    return figure


def gain_by_group(model: Boosted, sides: dict[str, Sides]) -> dict[str, float]:
    """Share of LightGBM's gain by feature group, in the order in which the groups' columns were joined."""
    gains = model.booster.feature_importance("gain")
    owners = [group for part in ("a", "b", "a", "shared") for group in sides for _ in range(_width(sides[group], part))]
    total = pd.Series(gains).groupby(owners).sum()
    return {str(group): float(gain / max(total.sum(), 1e-12)) for group, gain in total.items()}


def _width(sides: Sides, part: str) -> int:
    return getattr(sides, part).shape[1]
