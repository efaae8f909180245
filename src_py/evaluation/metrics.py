"""Log loss, accuracy, and the temperature that calibrates probabilities."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import accuracy_score, log_loss

try:
    import datasets
    import evaluate
except ImportError:  # Kaggle's image has no evaluate
    evaluate = None
from src_py.errors import InputError
from src_py.evaluation.baselines import class_shares


def _score(labels, probabilities) -> dict[str, float]:
    classes = range(np.asarray(probabilities).shape[1])
    return {
        "log_loss": float(log_loss(labels, probabilities, labels=list(classes))),
        "accuracy": float(accuracy_score(labels, np.argmax(probabilities, axis=1))),
    }


if evaluate is not None:

    class PreferenceMetric(evaluate.Metric):
        """Log loss and accuracy as an `evaluate` metric defined here: `evaluate.load` would need the internet."""

        def _info(self):
            features = {
                "predictions": datasets.Sequence(datasets.Value("float64")),
                "references": datasets.Value("int64"),
            }
            return evaluate.MetricInfo(
                description="Multi-class log loss and accuracy.",
                citation="",
                features=datasets.Features(features),
            )

        def _compute(self, predictions, references):
            return _score(references, np.asarray(predictions))


def score(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """`log_loss` (natural logarithm, mean over rows) and `accuracy`, through `evaluate` where it is installed.

    Args:
        labels: (rows,) class numbers.
        probabilities: (rows, classes), rows summing to 1.

    Raises:
        InputError: when a probability is not finite.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if not np.isfinite(probabilities).all():
        rows = (~np.isfinite(probabilities).all(1)).sum()
        raise InputError(
            f"{rows} of {len(probabilities)} predictions are NaN or infinite, since the model has diverged; train it "
            "again with a lower learning rate, or in fp32."
        )
    if evaluate is None:
        return _score(labels, probabilities)
    return PreferenceMetric(keep_in_memory=True).compute(predictions=probabilities.tolist(), references=list(labels))


def standard_error(values: np.ndarray, prompt: np.ndarray) -> float:
    """Of the mean of `values` (rows,), with prompts (numbers from 0 on) as the units of the sample; NaN for one."""
    sums = np.bincount(prompt, values - values.mean())
    count = len(np.unique(prompt))
    return float(np.sqrt((sums**2).sum() * count / (count - 1)) / len(values)) if count > 1 else float("nan")


def evaluation_metrics(prediction, classes: Sequence[str] | None = None) -> dict[str, float]:
    """`compute_metrics` for a Trainer: log loss, accuracy, share of each predicted class, spread over rows.

    `spread` is the standard deviation of the predicted probabilities over rows, averaged over classes: 0 means that
    every row gets the same answer. Shares are called `predicted_<class>`.

    Args:
        prediction: with logits (rows, classes), or a tuple that begins with them, and `label_ids` (rows,).
        classes: names in label order; by default their numbers.

    Raises:
        ValueError: when there are more or fewer names than classes.
    """
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    if not np.isfinite(logits).all():
        # argmax of NaN is 0: without this line a diverged model looks like one that always says the first class.
        return {"log_loss": float("nan"), "accuracy": float("nan"), "spread": float("nan")}
    probabilities = softmax(logits.astype(np.float64), axis=1)
    names = range(probabilities.shape[1]) if classes is None else classes
    if len(names) != probabilities.shape[1]:
        raise ValueError(
            f"{len(names)} class names ({', '.join(map(str, names))}) for {probabilities.shape[1]} classes."
        )
    shares = class_shares(probabilities.argmax(1), probabilities.shape[1])
    named = {f"predicted_{name}": float(share) for name, share in zip(names, shares)}
    return score(prediction.label_ids, probabilities) | named | {"spread": float(probabilities.std(0).mean())}


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 for which `apply_temperature` has the least log loss (Guo et al., arXiv 1706.04599)."""

    def loss(log_t: float) -> float:
        tempered = apply_temperature(probabilities, np.exp(log_t))
        return -np.log(tempered[np.arange(len(labels)), labels]).mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-2.5, 2.5), method="bounded").x))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T): above 1 softer, below 1 sharper; shape (rows, classes)."""
    return softmax(np.log(np.clip(probabilities, 1e-12, 1)) / temperature, axis=1)
