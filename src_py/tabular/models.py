"""Three models of the same features, symmetric in A and B: LightGBM, multinomial logistic regression, a small MLP."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import lightgbm
import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from src_py.config import Settings, setting
from src_py.errors import InputError
from src_py.tabular.sides import Sides, stack

MODELS = ("lightgbm", "logistic", "mlp")
LIGHTGBM = {
    "learning_rate": 0.02,
    "num_leaves": 15,
    "min_child_samples": 40,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
}
ROUNDS, PATIENCE = 4000, 100
ABSENT = -12.0  # logit of a class that no training row has, against 0: one in 160,000


@dataclass(frozen=True)
class BoostSettings(Settings):
    """Which models learn the features.

    Args:
        models: some of `MODELS`.
        search_minutes: for LightGBM's settings; 0 uses the defaults.

    Raises:
        InputError: when there is no model.
    """

    models: tuple[str, ...] = setting(MODELS, choices=MODELS)
    search_minutes: float = setting(2.0, least=0, most=720)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models:
            raise InputError(f"CFG.models is empty; use at least one of {', '.join(map(repr, MODELS))}.")


def learning_rate(rows: int) -> float:
    """LightGBM's learning rate for so many pairs: 0.02 up to 5,000 pairs, then in proportion, at most 0.1.

    More rows take more rounds at the same rate, and each takes longer; what a small rate gains shrinks with the noise.
    """
    return LIGHTGBM["learning_rate"] * min(max(rows / 5000, 1.0), 5.0)


class Rows(NamedTuple):
    """Features and labels of some rows."""

    sides: Sides
    labels: np.ndarray


def double(rows: Rows) -> Rows:
    """Every row also with A and B exchanged, and its label with it."""
    swapped = np.choose(rows.labels, (1, 0, 2))
    return Rows(stack([rows.sides, rows.sides.swapped()]), np.concatenate([rows.labels, swapped]))


def fit_model(
    name: str, fit: Rows, stop: Rows, n_classes: int, seed: int, options: dict[str, Any] | None = None
) -> "Model":
    """Fit one model to pairs in both orders. Its size (rounds, penalty, epochs) is the best on `stop` after a fit on
    `fit`; then it is fitted on all of both at that size."""
    kind = _CLASSES[name]
    options = {"learning_rate": learning_rate(len(fit.labels) + len(stop.labels))} | (options or {})
    fit, stop = double(fit), double(stop)
    size, curve = kind.choose(fit, stop, n_classes, seed, options)
    both = Rows(stack([fit.sides, stop.sides]), np.concatenate([fit.labels, stop.labels]))
    model = kind.train(both, n_classes, seed, options, size)
    model.curve = curve
    return model


def load_model(name: str, arrays: dict[str, np.ndarray]) -> "Model":
    """A model from what its `arrays` gave."""
    return _CLASSES[name].from_arrays(arrays)


class Model:
    """A fitted model; `curve` holds the log loss on the rows to stop by, one figure a size."""

    curve: tuple[float, ...] = ()

    @classmethod
    def choose(
        cls, fit: Rows, stop: Rows, n_classes: int, seed: int, options: dict[str, Any]
    ) -> tuple[Any, tuple[float, ...]]:
        """The size with the least log loss on `stop` after fits on `fit`, and the log loss at every size."""
        raise NotImplementedError

    @classmethod
    def train(cls, rows: Rows, n_classes: int, seed: int, options: dict[str, Any], size: Any) -> Self:
        """Fit on all of `rows` at that size."""
        raise NotImplementedError

    def one_way(self, sides: Sides) -> np.ndarray:
        """Probabilities (rows, classes) in the order in which the answers stand."""
        raise NotImplementedError

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` needs."""
        raise NotImplementedError

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        """The model, read back."""
        raise NotImplementedError

    def predict(self, sides: Sides) -> np.ndarray:
        """Probabilities (rows, classes), the mean over both orders, so that swapping the answers swaps them."""
        straight, other = self.one_way(sides), self.one_way(sides.swapped())
        return (straight + other[:, [1, 0, *range(2, straight.shape[1])]]) / 2


class Boosted(Model):
    """LightGBM; its size is the number of rounds."""

    def __init__(self, booster: lightgbm.Booster):
        self.booster = booster

    @classmethod
    def choose(cls, fit: Rows, stop: Rows, n_classes: int, seed: int, options: dict):
        train = cls._dataset(fit)
        valid = lightgbm.Dataset(stop.sides.for_trees(), stop.labels, reference=train)
        record: dict = {}
        callbacks: list[Any] = [lightgbm.early_stopping(PATIENCE, verbose=False), lightgbm.record_evaluation(record)]
        settings = cls._settings(n_classes, seed, options)
        booster = lightgbm.train(settings, train, ROUNDS, valid_sets=[valid], callbacks=callbacks)
        return max(1, booster.best_iteration), tuple(record["valid_0"]["multi_logloss"])

    @classmethod
    def train(cls, rows: Rows, n_classes: int, seed: int, options: dict, size: int) -> "Boosted":
        return cls(lightgbm.train(cls._settings(n_classes, seed, options), cls._dataset(rows), size))

    @staticmethod
    def _settings(n_classes: int, seed: int, options: dict) -> dict:
        fixed = {"objective": "multiclass", "num_class": n_classes, "metric": "multi_logloss", "seed": seed}
        return LIGHTGBM | options | fixed | {"deterministic": True, "force_row_wise": True, "verbosity": -1}

    @staticmethod
    def _dataset(rows: Rows) -> lightgbm.Dataset:
        return lightgbm.Dataset(rows.sides.for_trees(), rows.labels, free_raw_data=False)

    def one_way(self, sides: Sides) -> np.ndarray:
        return np.asarray(self.booster.predict(sides.for_trees()))

    def gains(self, sides: Sides) -> dict[str, float]:
        """Gain importance of every column of `sides.for_trees()`."""
        return dict(zip(sides.tree_names(), self.booster.feature_importance("gain").tolist()))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"text": np.array(self.booster.model_to_string())}

    @classmethod
    def from_arrays(cls, arrays) -> "Boosted":
        return cls(lightgbm.Booster(model_str=str(arrays["text"])))


class _Standardised(Model):
    """A model of standardised columns, all of it arrays."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self._arrays = arrays

    @staticmethod
    def scales(rows: Rows) -> dict[str, np.ndarray]:
        x = rows.sides.for_linear()
        return {"centre": x.mean(0), "scale": x.std(0) + 1e-6}

    @staticmethod
    def columns(sides: Sides, arrays: dict[str, np.ndarray]) -> np.ndarray:
        return ((sides.for_linear() - arrays["centre"]) / arrays["scale"]).clip(-6, 6)

    def arrays(self) -> dict[str, np.ndarray]:
        return self._arrays

    @classmethod
    def from_arrays(cls, arrays):
        return cls(dict(arrays))


class Logistic(_Standardised):
    """Multinomial logistic regression; its size is the inverse penalty C."""

    SIZES = (0.0003, 0.001, 0.003, 0.01, 0.03)

    @classmethod
    def choose(cls, fit: Rows, stop: Rows, n_classes: int, seed: int, options: dict):
        models = [cls.train(fit, n_classes, seed, options, size) for size in cls.SIZES]
        curve = tuple(_log_loss(model.one_way(stop.sides), stop.labels) for model in models)
        return cls.SIZES[int(np.argmin(curve))], curve

    @classmethod
    def train(cls, rows: Rows, n_classes: int, seed: int, options: dict, size: float) -> "Logistic":
        arrays = cls.scales(rows)
        weights, intercept = np.zeros((len(arrays["centre"]), n_classes)), np.full(n_classes, ABSENT)
        if len(np.unique(rows.labels)) == 1:  # nothing to tell apart
            intercept[rows.labels[0]] = 0.0
            return cls(arrays | {"weights": weights, "intercept": intercept})
        model = LogisticRegression(C=size, max_iter=300).fit(cls.columns(rows.sides, arrays), rows.labels)
        if len(model.classes_) == 2:  # one column of weights, for the second class
            weights[:, model.classes_[1]], intercept[model.classes_] = model.coef_[0], [0.0, model.intercept_[0]]
        else:
            weights[:, model.classes_], intercept[model.classes_] = model.coef_.T, model.intercept_
        return cls(arrays | {"weights": weights, "intercept": intercept})

    def one_way(self, sides: Sides) -> np.ndarray:
        return softmax(self.columns(sides, self._arrays) @ self._arrays["weights"] + self._arrays["intercept"], axis=1)


class Perceptron(_Standardised):
    """One hidden layer of 32, strongly regularised; its size is the number of epochs."""

    EPOCHS, WAIT = 40, 5

    @classmethod
    def choose(cls, fit: Rows, stop: Rows, n_classes: int, seed: int, options: dict):
        curve: list[float] = []
        for model in cls._epochs(fit, n_classes, seed):
            curve.append(_log_loss(model.one_way(stop.sides), stop.labels))
            if len(curve) - int(np.argmin(curve)) > cls.WAIT:
                break
        return int(np.argmin(curve)) + 1, tuple(curve)

    @classmethod
    def train(cls, rows: Rows, n_classes: int, seed: int, options: dict, size: int) -> "Perceptron":
        return [model for model, _ in zip(cls._epochs(rows, n_classes, seed), range(size))][-1]

    @classmethod
    def _epochs(cls, rows: Rows, n_classes: int, seed: int) -> Iterator["Perceptron"]:
        scales = cls.scales(rows)
        x = cls.columns(rows.sides, scales)
        batch = min(128, len(rows.labels))
        model = MLPClassifier((32,), alpha=3.0, learning_rate_init=5e-4, batch_size=batch, random_state=seed)
        for _ in range(cls.EPOCHS):
            model.partial_fit(x, rows.labels, classes=list(range(n_classes)))
            arrays = dict(scales)
            for i, (weights, intercept) in enumerate(zip(model.coefs_, model.intercepts_)):
                arrays |= {f"weights{i}": weights.copy(), f"intercept{i}": intercept.copy()}
            yield cls(arrays)

    def one_way(self, sides: Sides) -> np.ndarray:
        layer = self.columns(sides, self._arrays) @ self._arrays["weights0"] + self._arrays["intercept0"]
        logits = np.maximum(layer, 0) @ self._arrays["weights1"] + self._arrays["intercept1"]
        if logits.shape[1] == 1:  # two classes share one logit
            logits = np.hstack([np.zeros_like(logits), logits])
        return softmax(logits, axis=1)


_CLASSES: dict[str, type[Model]] = {"lightgbm": Boosted, "logistic": Logistic, "mlp": Perceptron}


def _log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), labels].clip(1e-12)).mean())
