"""What embeddings of P+A and P+B say about a pair."""

import numpy as np

from src_py.linear_stack import LinearStack
from src_py.sides import Sides


class EmbeddingFeatures:
    """Scores from `LinearStack`, likenesses to each other and to the prompt, and the largest principal components of
    the difference between the answers; centre, scale and components come from training rows only."""

    def __init__(self, components: int = 16, seed: int = 0):
        self.components = components
        self.stack = LinearStack(alphas=(100.0, 400.0, 1600.0, 6400.0), seed=seed)

    def fit_transform(self, vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Sides:
        """Fit on training rows.

        Args:
            vectors: (rows, 3, hidden) of the prompt, of P+A and of P+B.
        """
        both = np.asarray(vectors[:, 1:], dtype=np.float32).reshape(-1, vectors.shape[2])
        self.centre, self.scale = both.mean(0), both.std(0) + 1e-6
        a, b = self._standard(vectors)
        # Both orders of a pair together have mean zero, so that no centring breaks the symmetry.
        _, _, components = np.linalg.svd((a - b).T @ (a - b))
        self.axes = components[: self.components].T.astype(np.float32)
        return self._sides(vectors, lambda a, b: self.stack.fit_transform(a, b, labels, groups))

    def transform(self, vectors: np.ndarray) -> Sides:
        return self._sides(vectors, self.stack.transform)

    def _standard(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple((np.asarray(vectors[:, side], np.float32) - self.centre) / self.scale for side in (1, 2))

    def _sides(self, vectors: np.ndarray, scores) -> Sides:
        a, b = self._standard(vectors)
        prompt = (np.asarray(vectors[:, 0], np.float32) - self.centre) / self.scale
        of_a, of_b, of_tie = scores(a, b)
        sides = [
            np.column_stack([score, _cosine(side, prompt), side @ self.axes]).astype(np.float32)
            for score, side in ((of_a, a), (of_b, b))
        ]
        distance = np.linalg.norm(a - b, axis=1) / np.sqrt(a.shape[1])
        shared = np.column_stack([of_tie, _cosine(a, b), distance, (a @ self.axes) * (b @ self.axes)]).astype(
            np.float32
        )
        axes = range(self.axes.shape[1])
        names = ("embedding score", "embedding likeness to the prompt", *(f"embedding axis {i}" for i in axes))
        shared_names = ("embedding tie score", "embedding likeness", "embedding distance")
        return Sides(*sides, shared, names, (*shared_names, *(f"embedding product {i}" for i in axes)))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"centre": self.centre, "scale": self.scale, "axes": self.axes} | self.stack.arrays()

    @classmethod
    def from_arrays(cls, arrays) -> "EmbeddingFeatures":
        features = cls(components=arrays["axes"].shape[1])
        features.centre, features.scale, features.axes = (arrays[name] for name in ("centre", "scale", "axes"))
        features.stack = LinearStack.from_arrays(arrays)
        return features


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)).clip(1e-9)
