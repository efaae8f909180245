"""Thousands of columns become a few: linear models inside the fold, whose out-of-fold scores are the new columns."""

import numpy as np
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold

INNER_FOLDS = 4


class LinearStack:
    """Two ridge regressions on the vectors of both answers.

    *Who wins* (+1 a, -1 b, 0 tie) on x_a - x_b, without an intercept, so that the score of a pair is the difference of
    two scores; *tie or not* on x_a + x_b, and for dense vectors on |x_a - x_b| too. Training rows get scores of models
    that have not seen their prompt (stacked generalisation, Wolpert 1992), all other rows the mean of these models.
    """

    def __init__(self, alphas: tuple[float, ...] = (1.0, 4.0, 16.0), seed: int = 0):
        self.alphas, self.seed = alphas, seed
        self.win = self.tie = np.zeros((0, 0))  # (models, columns) each
        self.tie_intercepts = np.zeros(0)

    def fit_transform(self, a, b, labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Out-of-fold scores of A, of B and of a tie, each (rows,).

        Args:
            a, b: vectors of the two answers (rows, columns), dense or sparse.
            labels: 0 a, 1 b, 2 tie.
            groups: rows with equal numbers (the same prompt) are never on both sides.
        """
        target = np.where(labels == 0, 1.0, np.where(labels == 1, -1.0, 0.0))
        tie = (labels == 2).astype(float)
        odd, even = _odd(a, b), _even(a, b)
        folds = min(INNER_FOLDS, len(np.unique(groups)))
        splits = list(GroupKFold(folds, shuffle=True, random_state=self.seed).split(labels, groups=groups))
        self.win, _ = self._stack(odd, target, splits, centre=False)
        self.tie, self.tie_intercepts = self._stack(even, tie, splits, centre=True)
        scores = np.zeros((3, len(labels)))
        for number, (_, held) in enumerate(splits):
            scores[0, held], scores[1, held] = a[held] @ self.win[number], b[held] @ self.win[number]
            scores[2, held] = even[held] @ self.tie[number] + self.tie_intercepts[number]
        return scores[0], scores[1], scores[2]

    def transform(self, a, b) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores of rows that no model was fitted on."""
        win, tie = self.win.mean(0), self.tie.mean(0)
        return a @ win, b @ win, _even(a, b) @ tie + self.tie_intercepts.mean()

    def _stack(self, x, y: np.ndarray, splits, centre: bool) -> tuple[np.ndarray, np.ndarray]:
        """Weights and intercept of every inner fold, at the ridge penalty with the least error on the first."""
        tried = [self._fit(x, y, splits[0], alpha, centre) for alpha in self.alphas]
        errors = [((x[splits[0][1]] @ w + middle - y[splits[0][1]]) ** 2).sum() for w, middle in tried]
        best = int(np.argmin(errors))
        models = [tried[best], *(self._fit(x, y, split, self.alphas[best], centre) for split in splits[1:])]
        return np.stack([weights for weights, _ in models]), np.array([middle for _, middle in models])

    @staticmethod
    def _fit(x, y: np.ndarray, split, alpha: float, centre: bool) -> tuple[np.ndarray, float]:
        rows = split[0]
        middle = float(y[rows].mean()) if centre else 0.0
        # A few conjugate-gradient steps are enough: what later ones would fit is noise.
        how = {"solver": "sparse_cg", "max_iter": 20, "tol": 1e-2} if sparse.issparse(x) else {"solver": "cholesky"}
        return Ridge(alpha, fit_intercept=False, **how).fit(x[rows], y[rows] - middle).coef_, middle

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` needs: only means, since other rows use no more."""
        return {"win": self.win.mean(0), "tie": self.tie.mean(0), "tie_intercept": self.tie_intercepts.mean()[None]}

    @classmethod
    def from_arrays(cls, arrays) -> "LinearStack":
        stack = cls()
        stack.win, stack.tie = arrays["win"][None], arrays["tie"][None]
        stack.tie_intercepts = arrays["tie_intercept"]
        return stack


def _odd(a, b):
    return (a - b).tocsr() if sparse.issparse(a) else a - b


def _even(a, b):
    # For sparse vectors the two are nearly the same: few n-grams stand in both answers equally often.
    return (a + b).tocsr() if sparse.issparse(a) else np.hstack([np.abs(a - b), a + b])
