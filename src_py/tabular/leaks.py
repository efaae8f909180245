"""Does the pipeline learn where there is nothing to learn? Its predictions of shuffled labels against chance."""

import numpy as np
import pandas as pd

from src_py.errors import InputError
from src_py.kaggle.page import say

FALSE_ALARMS = 0.001  # of all runs without a leak, whatever the number of sets of features
DRAWS, CHUNK = 20_000, 400  # random orders: enough for the smallest p-value that 15 sets and models can need


def leak_table(predictions: dict[tuple[str, str], np.ndarray], labels: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Log loss of held-out rows by (set of groups, model), against the same predictions with the labels permuted.

    The labels were shuffled before anything was fitted. Without a leak the predictions know nothing of them, so that
    the held-out labels are as likely in any other order: the log loss over random orders is an exact null distribution
    (a permutation test), for any number of rows. What is compared are labels of held-out rows with predictions, so
    that a leak of labels is found in whatever step it is. Features made from the *unshuffled* labels are not found;
    `Counted.of` passes no labels to them.

    Args:
        predictions: (held-out rows, classes) by (set of groups, model).
        labels: (held-out rows,) shuffled class numbers.

    Returns:
        One row a prediction: log loss, its mean over random orders, the log loss below which there is a leak, and p.
    """
    rng, rows = np.random.default_rng(seed), np.arange(len(labels))
    losses = {key: -np.log(p.clip(1e-12)) for key, p in predictions.items()}
    chance: dict[tuple[str, str], list[np.ndarray]] = {key: [] for key in losses}
    for _ in range(0, DRAWS, CHUNK):
        orders = rng.permuted(np.tile(labels, (CHUNK, 1)), axis=1)
        for key, loss in losses.items():
            chance[key].append(loss[rows, orders].mean(1))
    table = {}
    for key, loss in losses.items():
        found, drawn = loss[rows, labels].mean(), np.concatenate(chance[key])
        table[key] = {
            "on shuffled labels": found,
            "by chance": drawn.mean(),
            "a leak is below": np.quantile(drawn, FALSE_ALARMS / len(losses)),
            # The small margin: orders that are equal but for rounding count as equal.
            "p": (1 + (drawn <= found + 1e-9).sum()) / (1 + len(drawn)),
        }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis(["features", "model"])


def stop_on_leak(table: pd.DataFrame, stop: bool = True) -> None:
    """Say whether there is a leak; in an innocent pipeline the answer is yes once in 1,000 runs.

    Args:
        table: from `leak_table`.
        stop: raise where there is one; otherwise print it.

    Raises:
        InputError: when there is a leak.
    """
    leaks = table.index[table["p"] * len(table) <= FALSE_ALARMS]
    if leaks.empty:
        say("No leak: nothing is learned where there is nothing to learn.")
        return
    message = (
        f"LEAK: with shuffled labels, {', '.join('/'.join(key) for key in leaks)} still predict held-out rows better "
        "than chance, so that these labels reach what is fitted; undo the last change to the features or folds."
    )
    if stop:
        raise InputError(f"{message} To continue in any case, set CFG.stop_on_failure = False.")
    say(message)
