"""What the history of a run says of predictions that were made after it."""

import numpy as np
import pandas as pd

# Training loss below the constant predictor's: more than reading brought anyone on the contest (0.128, the winner's).
BY_HEART = 0.15
BROKE_OUT = 0.25  # validation loss above the constant's: twice what the winner is below it, so no wobble of a learner
# Nats between the predictions' loss and the last or best that training reported of the same rows: worse by more than
# half precision, or better by more than a second reading in the other order brings (and in accuracy, by SURE errors).
WORSE_THAN_REPORTED, BETTER_THAN_REPORTED, SURE = 0.03, 0.3, 4.0


def unstable(history: pd.DataFrame, constant: float, over_constant: tuple[float, float]) -> bool:
    """NaN, or a validation loss far above the constant's while the training loss was above it too.

    A model that overfits late, or that had one bad evaluation and learned, is not unstable: its best weights count.
    """
    losses = history.get("log loss", pd.Series(dtype=float))
    if losses.isna().any():
        return True
    training = history.get("training loss", pd.Series(np.nan, index=history.index))
    broke_out = (losses > constant + BROKE_OUT) & ~(training < constant)
    return bool(broke_out.any()) and over_constant[0] <= 0


def not_as_reported(history: pd.DataFrame, model: float, error: float, accuracy: float, rows: int) -> str | None:
    """What is wrong where predictions of the validation rows are not those that training evaluated; None if they are.

    A loss that is lower than reported shows this only where more answers are right, too: calibration lowers the loss of
    a model that is over-certain by any amount, and leaves its answers nearly as they are.

    Args:
        model, error: the predictions' loss, and its standard error, since training may have evaluated a part only.
        accuracy: of the predictions.
        rows: that were predicted.
    """
    reported = history.get("log loss", pd.Series(dtype=float)).dropna()
    if not len(reported):
        return None
    place = min((len(reported) - 1, int(reported.argmin())), key=lambda at: abs(reported.iloc[at] - model))
    nearest = reported.iloc[place]
    figures = f"the predictions have a log loss of {model:.4f}, where training reported {nearest:.4f}"
    if model - nearest > WORSE_THAN_REPORTED + SURE * error:
        return (
            f"{figures}: were other weights loaded or averaged, was a head made anew, do compute_metrics or validation "
            "rows differ?"
        )
    right = history["accuracy"][history["log loss"].notna()].iloc[place] if "accuracy" in history else np.nan
    more = accuracy - right > SURE * np.sqrt(accuracy * (1 - accuracy) / rows)
    if more and nearest - model > BETTER_THAN_REPORTED + SURE * error:
        figures += f", and an accuracy of {accuracy:.3f}, where it reported {right:.3f}"
        return f"{figures}: do the validation rows or labels of the training differ from these, or compute_metrics?"
    return None


def by_heart(history: pd.DataFrame, constant: float) -> bool:
    if not {"training loss", "log loss"} <= set(history) or not len(history):
        return False
    return bool(history["training loss"].min() < constant - BY_HEART and history["log loss"].iloc[-1] > constant)
