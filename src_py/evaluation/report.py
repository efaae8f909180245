"""Tables and pictures that show whether the model learned."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from src_py.evaluation.baselines import class_shares
from src_py.evaluation.metrics import standard_error
from src_py.evaluation.style import BLUE, DASHES, GREEN, MARKERS, PALETTE, VERMILION, legend_below, new_figure

LONG_WORD = 20  # characters: longer ones, such as code, would be cut at the edge of a narrow page
_COLUMNS = {"eval_log_loss": "log loss", "eval_accuracy": "accuracy", "eval_spread": "spread"}


def history_table(log_history: list[dict]) -> pd.DataFrame:
    """One row an evaluation, from `trainer.state.log_history`: index step; epoch, training loss (mean since the
    row before), log loss (NaN where the model had diverged), accuracy, predicted-class shares, spread of the
    predictions over rows."""
    rows: dict[int, dict] = {}
    for entry in log_history:
        row = rows.setdefault(entry["step"], {"epoch": entry.get("epoch", np.nan)})
        if "loss" in entry:
            row["training loss"] = entry["loss"]
        for key, value in entry.items():
            if key.startswith("eval_predicted_"):
                row["predicted " + key.removeprefix("eval_predicted_")] = value
            elif key in _COLUMNS:
                row[_COLUMNS[key]] = value
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("step")
    shares = [name for name in table if name.startswith("predicted ")]  # a log that was read back is in another order
    table = table[[name for name in ("epoch", "training loss", *_COLUMNS.values()) if name in table] + shares]
    if "log loss" in table:
        return table[["log loss" in row for row in rows.values()]]
    # The Trainer's last entry sums up the training; without evaluations nothing of its row was measured.
    return table.dropna(how="all", subset=[name for name in table if name != "epoch"])


def as_texts(table: pd.DataFrame) -> pd.DataFrame:
    """A table of numbers to show: four decimals, and empty where nothing is known."""
    return table.map(lambda value: "" if pd.isna(value) else f"{value:.4f}")


def history_view(history: pd.DataFrame, labels: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """A `history_table` to show: rounded, empty where nothing is known, and below the predicted shares the true ones.

    Args:
        labels: (rows,) class numbers of the validation rows.
    """
    texts = as_texts(history)
    texts["epoch"] = ["" if pd.isna(epoch) else f"{epoch:.2f}" for epoch in history["epoch"]]
    shares = dict(zip((f"predicted {name}" for name in classes), class_shares(labels, len(classes))))
    if not set(shares) & set(texts):
        return texts
    truth = {name: f"{shares[name]:.4f}" if name in shares else "" for name in texts}
    return pd.concat([texts, pd.DataFrame(truth, index=["true shares"])]).rename_axis("step")


def as_html(table: pd.DataFrame) -> str:
    """HTML of a whole table without its index; cells that are not known stay empty, columns of text stand left."""
    texts = {name: _left for name in table if pd.api.types.is_string_dtype(table[name].dropna())}
    shown = table.rename(columns={name: _left(name) if name in texts else escape(str(name)) for name in table})
    formatters = {_left(name): _left for name in texts}
    with pd.option_context("display.max_colwidth", None):
        return shown.to_html(index=False, max_rows=None, border=0, na_rep="", escape=False, formatters=formatters)


def _left(text: object) -> str:
    """A cell of text, which notebooks set at the right like a number."""
    if pd.isna(text):
        return ""
    longest = max(map(len, str(text).split()), default=0)
    breaks = ";overflow-wrap:anywhere;min-width:9em" if longest > LONG_WORD else ""
    return f'<div style="text-align:left{breaks}">{escape(str(text))}</div>'


def folded(title: str, table: pd.DataFrame) -> str:
    """HTML of a long table that shows its title, and the table at a click."""
    return f"<details><summary>{escape(title)}</summary>{as_html(table)}</details>"


def validation_table(
    held: pd.DataFrame,
    fold: int,
    classes: tuple[str, ...],
    raw: np.ndarray,
    final: np.ndarray,
    counts: np.ndarray | None = None,
) -> pd.DataFrame:
    """Predictions of held-out rows: id, fold, label, a column a class, the same before calibration as raw_<class>, and
    those of the counts alone as counts_<class>, if there are any.

    Args:
        held: with id and label.
        raw, final, counts: probabilities (rows, classes).
    """
    columns = dict(zip(classes, final.T)) | {f"raw_{name}": values for name, values in zip(classes, raw.T)}
    columns |= {} if counts is None else {f"counts_{name}": values for name, values in zip(classes, counts.T)}
    known = pd.DataFrame({"id": held["id"], "fold": fold, "label": held["label"]}).reset_index(drop=True)
    return known.assign(**columns)


def counts_of(validation: pd.DataFrame, classes: tuple[str, ...]) -> np.ndarray | None:
    """Probabilities (rows, classes) of the counts alone, from a `validation_table`; None where it has none."""
    names = [f"counts_{name}" for name in classes]
    return validation[names].to_numpy() if set(names) <= set(validation) else None


def read_predictions(path: Path, classes: tuple[str, ...]) -> pd.DataFrame | None:
    """Out-of-fold predictions (id, label, and a probability for each class); None, with a line, when there are none."""
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path, dtype={"id": str})
        valid = np.isfinite(table[["label", *classes]].to_numpy(float)).all()
    except (OSError, ValueError, KeyError) as error:
        print(f"{path} cannot be read ({str(error)[:100]}); the evaluation is left out.")
        return None
    if not valid or table.empty:
        print(f"{path} is incomplete; the evaluation is left out.")
        return None
    return table.astype({"label": int})


def plot_learning(history: pd.DataFrame, lines: dict[str, float], shares: dict[str, float] | None = None) -> Figure:
    """Log loss and predicted-class shares over steps.

    Args:
        history: from `history_table`.
        lines: log losses to compare with, such as the constant predictor's.
        shares: by class, its true share of the validation rows, drawn dashed.
    """
    figure, (left, right) = new_figure(1, 2, figsize=(11, 4.2))
    # Without evaluations during training there is no log loss, and none of training before the first entry of the log.
    for column, look, label in (("training loss", "s-", "training"), ("log loss", "o-", "validation")):
        if column in history:
            color = BLUE if column == "log loss" else "0.6"
            left.plot(history.index, history[column], look, color=color, label=label)
    for dashes, color, (name, value) in zip(DASHES, (VERMILION, "black", GREEN), lines.items()):
        left.axhline(value, color=color, linestyle=dashes, label=f"{name} {value:.4f}")
    left.set(xlabel="optimizer step", ylabel="log loss", title="Does it learn?")
    legend_below(left)
    predicted = list(history.filter(like="predicted "))
    for color, marker, name in zip(PALETTE, MARKERS, predicted):
        right.plot(history.index, history[name], f"{marker}-", color=color, label=name)
        share = (shares or {}).get(name.removeprefix("predicted "))
        if share is not None:
            label = f"true {name.removeprefix('predicted ')} {share:.2f}"
            right.axhline(share, color=color, linestyle="--", label=label)
    right.set(xlabel="optimizer step", ylabel="share of rows", ylim=(-0.02, 1.02), title="Which class it predicts")
    if predicted:
        legend_below(right, len(predicted))
    return figure


def plot_predictions(labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Confusion matrix (rows: true class, shares of the row) and calibration (predicted against observed)."""
    figure, (left, right) = new_figure(1, 2, figsize=(11, 4.4))
    counts = pd.crosstab(labels, probabilities.argmax(1)).reindex(
        index=range(len(classes)), columns=range(len(classes)), fill_value=0
    )
    shares = counts.to_numpy() / counts.to_numpy().sum(1, keepdims=True).clip(1)
    left.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(shares):
        text = f"{counts.iat[i, j]}\n{share:.0%}"
        left.text(j, i, text, ha="center", va="center", color="white" if share > 0.5 else "black")
    ticks = range(len(classes))
    left.set(xticks=ticks, yticks=ticks, xticklabels=classes, yticklabels=classes)
    left.set(xlabel="predicted", ylabel="true", title="Confusion matrix")
    right.plot([0, 1], [0, 1], color="0.5", linestyle="--", label="well calibrated")
    for k, (name, color, marker) in enumerate(zip(classes, PALETTE, MARKERS)):
        predicted, observed = calibration(labels == k, probabilities[:, k])
        right.plot(predicted, observed, f"{marker}-", color=color, label=name)
    right.set(xlabel="predicted probability", ylabel="observed share", title="Calibration", xlim=(0, 1), ylim=(0, 1))
    legend_below(right, 4)
    return figure


def calibration(hits: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Mean predicted probability and observed share in `bins` groups of equal size, each of shape (bins,)."""
    groups = np.array_split(np.argsort(probabilities, kind="stable"), min(bins, len(probabilities)))
    return np.array([probabilities[g].mean() for g in groups]), np.array([hits[g].mean() for g in groups])


def class_table(train_labels, valid_labels, classes: tuple[str, ...]) -> pd.DataFrame:
    """Class shares on both sides of the split."""
    return pd.DataFrame(
        [class_shares(train_labels, len(classes)), class_shares(valid_labels, len(classes))],
        index=[f"training, {len(train_labels):,} rows", f"validation, {len(valid_labels):,} rows"],
        columns=classes,
    ).round(3)


def group_table(
    labels: np.ndarray,
    probabilities: np.ndarray,
    calibrated: np.ndarray,
    shares: np.ndarray,
    groups: Mapping[str, np.ndarray],
    prompts: np.ndarray,
) -> pd.DataFrame:
    """Log loss by group, before and after calibration, against the constant predictor; the worst groups come first.

    Args:
        labels: (rows,) class numbers.
        probabilities, calibrated: (rows, classes) before and after.
        shares: (classes,) or (rows, classes), of the training labels: what the constant predictor says.
        groups: by grouping, the group of every row, (rows,).
        prompts: (rows,) the prompt of every row; intervals take prompts as independent.

    Returns:
        Indexed by grouping and group, all rows first. `rows`; log losses `constant`, `model` and `calibrated`; and
        `model - constant` and `calibrated - constant` with the half-width of their 95 % interval, `+-`. Groups with a
        single prompt are left out. Above 0, the model does worse there than no model.
    """
    places = np.arange(len(labels))
    constant = -np.log(np.clip(np.broadcast_to(shares, np.shape(probabilities)), 1e-15, 1))[places, labels]
    model, after = (-np.log(np.clip(p[places, labels], 1e-15, 1)) for p in (probabilities, calibrated))
    prompt = pd.factorize(np.asarray(prompts))[0]
    everything = {"all": np.full(len(labels), "all rows", dtype=object)}
    rows = {}
    for grouping, group in (everything | dict(groups)).items():
        for name in pd.unique(np.asarray(group)):
            where = np.asarray(group) == name
            if len(np.unique(prompt[where])) < 2:  # says nothing: it has no interval
                continue
            row: dict[str, float] = {"rows": int(where.sum()), "constant": constant[where].mean()}
            row |= {"model": model[where].mean(), "calibrated": after[where].mean()}
            for column, losses in (("model", model), ("calibrated", after)):
                difference = (losses - constant)[where]
                row[f"{column} - constant"] = difference.mean()
                row[f"{column} +-"] = half_width(difference, prompt[where])
            rows[(grouping, name)] = row
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["grouping", "group"])
    order = np.lexsort((-table["model - constant"], table.index.get_level_values(0) != "all"))
    return table.iloc[order].astype({"rows": int})


def half_width(values: np.ndarray, prompt: np.ndarray) -> float:
    """Of the 95 % interval of a mean, with prompts as the units of the sample."""
    return 1.96 * standard_error(values, prompt)


def plot_groups(table: pd.DataFrame) -> Figure:
    """Log loss against the constant predictor's (0) by group, from `group_table`: right of the line, the model is so
    sure of wrong answers that no model would do better."""
    figure, axes = new_figure(figsize=(9, 1.6 + 0.3 * len(table)))
    places = np.arange(len(table))[::-1]
    styles = (("model", VERMILION, "o", 0.13), ("calibrated", BLUE, "s", -0.13))
    for column, color, marker, shift in styles:
        values, error = table[f"{column} - constant"], table[f"{column} +-"].fillna(0)
        label = {"model": "before calibration", "calibrated": "after calibration"}[column]
        axes.errorbar(
            values,
            places + shift,
            xerr=error,
            fmt=marker,
            color=color,
            markersize=4,
            capsize=2,
            linestyle="",
            label=label,
        )
    axes.axvline(0, color="black", linestyle="--", linewidth=1, label="constant predictor")
    names = [f"{grouping} | {group} ({rows:,})" for (grouping, group), rows in table["rows"].items()]
    axes.set_yticks(places, [name if len(name) <= 60 else name[:57] + "..." for name in names], parse_math=False)
    axes.set(xlabel="log loss minus the constant predictor's (nats, 95 % interval)", title="Where is it over-certain?")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    return figure
