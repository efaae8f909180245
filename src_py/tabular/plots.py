"""Pictures of the LightGBM recipe."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from src_py.tabular.sides import Sides


def plot_heads(table: pd.DataFrame, spread: pd.DataFrame, constant: float) -> Figure:
    """Log loss saved against the constant predictor, by feature group (rows) and head (columns), with the standard
    deviation over folds."""
    figure, axes = plt.subplots(figsize=(9, 3.8), layout="constrained")
    width = 0.8 / len(table.columns)
    for number, head in enumerate(table.columns):
        places = np.arange(len(table)) + (number - (len(table.columns) - 1) / 2) * width
        axes.bar(places, constant - table[head], width, yerr=spread[head], capsize=3, label=head)
    axes.axhline(0, color="C3", linestyle="--", linewidth=1, label=f"constant predictor {constant:.4f}")
    axes.set_xticks(range(len(table)), table.index)
    axes.set(ylabel="log loss saved (nats)", title="Which features, which head?")
    figure.legend(loc="outside lower center", ncols=len(table.columns) + 1, fontsize="small")
    plt.close(figure)
    return figure


def plot_boosting(boosters: dict[int, object], sides: dict[str, Sides]) -> Figure:
    """LightGBM's log loss over rounds on the rows it stops by, one line a fold; and its gain by feature group."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for fold, head in boosters.items():
        (line,) = left.plot(np.arange(1, len(head.curve) + 1), head.curve, alpha=0.8, label=f"fold {fold}")
        best = int(np.argmin(head.curve))
        left.plot(best + 1, head.curve[best], "o", color=line.get_color())
    left.set(xlabel="rounds", ylabel="log loss", title="When LightGBM stops")
    left.legend(fontsize="small")
    shares = pd.DataFrame({fold: gain_by_group(head, sides) for fold, head in boosters.items()})
    shares = shares.loc[shares.mean(axis=1).sort_values().index]
    right.barh(shares.index, shares.mean(axis=1), xerr=shares.std(axis=1).fillna(0), capsize=3)
    right.set(xlabel="share of the gain", title="What the trees use")
    plt.close(figure)
    return figure


def gain_by_group(head, sides: dict[str, Sides]) -> dict[str, float]:
    """Share of LightGBM's gain by feature group, in the order in which the groups' columns were joined."""
    gains = head.booster.feature_importance("gain")
    owners = [group for part in ("a", "b", "a", "shared") for group in sides for _ in range(_width(sides[group], part))]
    total = pd.Series(gains).groupby(owners).sum()
    return (total / max(total.sum(), 1e-12)).to_dict()


def _width(sides: Sides, part: str) -> int:
    return getattr(sides, part).shape[1]
