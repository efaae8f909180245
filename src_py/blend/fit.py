"""Non-negative weights with the least log loss, by Newton's method, and what they are without a part of the rows."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls
from scipy.special import log_softmax

SMALLEST = 1e-12  # probability, so that its logarithm is finite
TIE = 2  # the class
SPACES = ("probabilities", "logits")
_STEPS, _CLOSE = 50, 1e-9  # of Newton's method: at most so many, and the gain in nats at which it ends


def logarithms(probabilities: np.ndarray) -> np.ndarray:
    """Of probabilities of any shape; finite for those of 0."""
    return np.log(np.clip(probabilities, SMALLEST, None))


class Problem:
    """Rows and members whose weights are sought.

    A blend is fitted together with a temperature and a shift of ties, which are thrown away: else a flat member would
    be kept because it tames others that are too sure of themselves, and a temperature does that better. Only the
    ratios of the weights are of use to the caller.

    The weights of a set of members minimise the log loss plus a pull towards equal weights, as strong as that of
    `pull` rows for which each member in turn would be the only one to be right (a Dirichlet prior, to second order).
    The other parameters are pulled to "no change" by one row.

    Args:
        predictions: (rows, classes, members) probabilities.
        labels: (rows,) class numbers.
        part: (rows,) numbers of the parts, each of which is left out in turn.
        space: "logits": a weighted sum of logarithms. "probabilities": a weighted mean of probabilities.
    """

    def __init__(self, predictions: np.ndarray, labels: np.ndarray, part: np.ndarray, space: str) -> None:
        self.members = logarithms(predictions) if space == "logits" else predictions
        self.labels, self.space = labels, space
        self.ties = predictions.shape[1] > TIE
        self.rows = [np.flatnonzero(part == number) for number in np.unique(part)]

    def start(self, chosen: Sequence[int]) -> np.ndarray:
        """Equal weights, no temperature and no shift: (parameters,)."""
        return np.concatenate([np.full(len(chosen), 1 / len(chosen)), [1.0] * self._sharp, [0.0] * self.ties])

    def fit(self, chosen: Sequence[int], pull: float, start: np.ndarray | None = None) -> np.ndarray:
        """Parameters for the `chosen` members, fitted on all rows: their weights come first."""
        members = self.members[:, :, list(chosen)]
        x = self.start(chosen) if start is None else start
        loss = self._objective(members, x, pull)
        for _ in range(_STEPS):
            gradient, hessian = self._sums(members, x, [np.arange(len(members))])
            target = self._minimise(x, gradient[0], hessian[0], len(members), pull)
            share = 1.0
            while True:  # a full step almost always goes down
                x_new = x + share * (target - x)
                new = self._objective(members, x_new, pull)
                if new <= loss or share < 1e-3:
                    break
                share /= 2
            if new > loss - _CLOSE:
                return x_new if new < loss else x
            x, loss = x_new, new
        return x

    def without_parts(self, chosen: Sequence[int], x: np.ndarray, pull: float) -> np.ndarray:
        """Parameters (parts, parameters) that the rows outside each part would give: one step of Newton's method from
        `x`, which all rows have given. A fit without the part ends at the same losses to about 0.0001 nats."""
        gradients, hessians = self._sums(self.members[:, :, list(chosen)], x, self.rows)
        found = np.empty((len(self.rows), len(x)))
        for number, rows in enumerate(self.rows):
            gradient, hessian = gradients.sum(0) - gradients[number], hessians.sum(0) - hessians[number]
            found[number] = self._minimise(x, gradient, hessian, len(self.labels) - len(rows), pull)
        return found

    def without_each(self, chosen: Sequence[int], x: np.ndarray, pull: float) -> list[np.ndarray]:
        """For each place in `chosen`, the parameters of the others if that member is left out: one step from `x`."""
        gradients, hessians = self._sums(self.members[:, :, list(chosen)], x, [np.arange(len(self.labels))])
        return [
            self._minimise(x, gradients[0], hessians[0], len(self.labels), pull, left_out=place)
            for place in range(len(chosen))
        ]

    def held_losses(self, chosen: Sequence[int], x_of_part: np.ndarray) -> np.ndarray:
        """Log loss (rows,) of every row with the parameters (parts, parameters) that were found without its part."""
        losses = np.empty(len(self.labels))
        for rows, x in zip(self.rows, x_of_part):
            logits = self._logits(self.members[rows][:, :, list(chosen)], x)
            losses[rows] = -log_softmax(logits, axis=1)[np.arange(len(rows)), self.labels[rows]]
        return losses

    @property
    def _sharp(self) -> bool:
        """Whether the temperature has a parameter of its own; a weighted sum of logarithms has it in the weights."""
        return self.space == "probabilities"

    def _logits(self, members: np.ndarray, x: np.ndarray) -> np.ndarray:
        blended = members @ x[: members.shape[2]]
        if self._sharp:
            blended = logarithms(blended) * x[members.shape[2]]
        if self.ties:
            blended[:, TIE] += x[-1]
        return blended

    def _objective(self, members: np.ndarray, x: np.ndarray, pull: float) -> float:
        known = log_softmax(self._logits(members, x), axis=1)[np.arange(len(members)), self.labels]
        curve, slope = self._prior(len(x), len(members), pull)
        return float(-known.mean() + (x @ curve @ x / 2 - slope @ x) / len(members))

    def _sums(self, members: np.ndarray, x: np.ndarray, parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Slope (parts, parameters) and curvature (parts, parameters, parameters: Fisher's) of the summed log loss."""
        gradients, hessians = [], []
        for rows in parts:
            own = members[rows] if len(parts) > 1 else members
            slopes = self._slopes(own, x)
            expected = np.exp(log_softmax(self._logits(own, x), axis=1))
            residual = expected.copy()
            residual[np.arange(len(rows)), self.labels[rows]] -= 1
            gradients.append(np.tensordot(residual, slopes, axes=2))
            slopes -= np.einsum("nc,ncp->np", expected, slopes)[:, None]
            slopes *= np.sqrt(expected)[:, :, None]
            flat = slopes.reshape(-1, len(x))
            hessians.append(flat.T @ flat)
        return np.array(gradients), np.array(hessians)

    def _slopes(self, members: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Of the logits by the parameters, (rows, classes, parameters)."""
        count = members.shape[2]
        slopes = np.zeros((*members.shape[:2], len(x)))
        slopes[:, :, :count] = members
        if self._sharp:
            mean = np.clip(members @ x[:count], SMALLEST, None)
            slopes[:, :, :count] *= (x[count] / mean)[:, :, None]
            slopes[:, :, count] = logarithms(mean)
        if self.ties:
            slopes[:, TIE, -1] = 1.0
        return slopes

    def _prior(self, size: int, rows: int, pull: float) -> tuple[np.ndarray, np.ndarray]:
        """Curvature and slope of the pulls, in rows: towards equal weights that sum to 1, and towards no change."""
        curve, slope = np.eye(size), np.ones(size)
        count = size - self._sharp - self.ties
        total = rows if self._sharp else 1  # a weighted mean of probabilities is the same at any sum: hold it at 1
        curve[:count, :count] = pull * count * (np.eye(count) - 1 / count) + total
        slope[:count] = total
        if self.ties:
            slope[-1] = 0.0
        return curve, slope

    def _minimise(self, x, gradient, hessian, rows: int, pull: float, left_out: int | None = None) -> np.ndarray:
        """The parameters with the least of the quadratic around `x`, none of the weights below 0; without that of the
        member `left_out`, which is 0."""
        keep = np.array([place for place in range(len(x)) if place != left_out])
        curve, slope = self._prior(len(keep), rows, pull)
        curve = (curve + hessian[np.ix_(keep, keep)]) / rows
        slope = (slope + (hessian @ x - gradient)[keep]) / rows
        root = np.linalg.cholesky(curve)
        right = np.linalg.solve(root, slope)
        if not self.ties:
            return nnls(root.T, right)[0]
        columns = np.concatenate([root.T, -root.T[:, -1:]], axis=1)  # the shift of ties may be below 0
        found = nnls(columns, right)[0]
        found[-2] -= found[-1]
        return found[:-1]
