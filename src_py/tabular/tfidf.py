"""TF-IDF of words and characters, stacked into a few out-of-fold columns."""

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from src_py.tabular.sides import FeatureGroup, Sides
from src_py.tabular.stacking import LinearStack

_KINDS = {
    "word": {"analyzer": "word", "ngram_range": (1, 2), "n_features": 2**18, "token_pattern": r"(?u)\b\w+\b"},
    "character": {"analyzer": "char", "ngram_range": (3, 3), "n_features": 2**18},
}
CHARACTERS = 4000  # of a text: its beginning shows the style, and the time stays bounded


def hash_texts(table: pd.DataFrame) -> dict[str, dict[str, sparse.csr_matrix]]:
    """Hashed counts by kind ("word", "character") and column, (rows, 2**18). Hashing knows no vocabulary: nothing is
    fitted here, so that it may be done once for all rows."""
    counted = {}
    for kind, options in _KINDS.items():
        vectorizer = HashingVectorizer(alternate_sign=False, norm=None, lowercase=True, dtype=np.float32, **options)
        columns = ("response_a", "response_b", *(("prompt",) if kind == "word" else ()))
        counted[kind] = {
            column: vectorizer.transform(table[column].map(lambda turns: "\n".join(turns)[:CHARACTERS]))
            for column in columns
        }
    return counted


class TfidfFeatures(FeatureGroup):
    """For words and for characters: a score of A, of B and of a tie, and the similarity of answers and prompt."""

    def __init__(self, seed: int = 0):
        super().__init__(seed)
        self.stacks = {kind: LinearStack(seed=seed) for kind in _KINDS}
        self.idf: dict[str, np.ndarray] = {}

    @staticmethod
    def count(table: pd.DataFrame, embed=None) -> dict[str, dict[str, sparse.csr_matrix]]:
        return hash_texts(table)

    @staticmethod
    def take(counted: dict, rows: np.ndarray) -> dict:
        return {kind: {name: matrix[rows] for name, matrix in columns.items()} for kind, columns in counted.items()}

    def fit_transform(self, counted: dict, labels: np.ndarray, prompts: np.ndarray) -> Sides:
        """Fit on training rows; their scores are out of fold."""
        for kind, columns in counted.items():
            both = sparse.vstack([columns["response_a"], columns["response_b"]], format="csr")
            self.idf[kind] = TfidfTransformer(sublinear_tf=True).fit(both).idf_.astype(np.float32)
        return self._sides(counted, lambda kind, a, b: self.stacks[kind].fit_transform(a, b, labels, prompts))

    def transform(self, counted: dict) -> Sides:
        return self._sides(counted, lambda kind, a, b: self.stacks[kind].transform(a, b))

    def _sides(self, counted: dict, scores) -> Sides:
        a_columns: list[np.ndarray] = []
        b_columns: list[np.ndarray] = []
        shared: list[np.ndarray] = []
        names: list[str] = []
        shared_names: list[str] = []
        for kind, columns in counted.items():
            weighted = {name: self._weigh(matrix, kind) for name, matrix in columns.items()}
            a, b = weighted["response_a"], weighted["response_b"]
            of_a, of_b, of_tie = scores(kind, a, b)
            a_columns.append(of_a)
            b_columns.append(of_b)
            names.append(f"tf-idf {kind} score")
            shared += [of_tie, _cosine(a, b)]
            shared_names += [f"tf-idf {kind} tie score", f"tf-idf {kind} similarity of the answers"]
            if "prompt" in weighted:
                a_columns.append(_cosine(a, weighted["prompt"]))
                b_columns.append(_cosine(b, weighted["prompt"]))
                names.append(f"tf-idf {kind} similarity to the prompt")
        a, b, both = (np.stack(part, axis=1).astype(np.float32) for part in (a_columns, b_columns, shared))
        return Sides(a, b, both, tuple(names), tuple(shared_names))

    def _weigh(self, counts: sparse.csr_matrix, kind: str) -> sparse.csr_matrix:
        """Sublinear tf times idf, rows of length one."""
        weighted = counts.copy()
        weighted.data = (1 + np.log(weighted.data)) * self.idf[kind][weighted.indices]
        norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel()).clip(1e-12)
        weighted.data /= np.repeat(norms, np.diff(weighted.indptr)).astype(np.float32)
        return weighted

    def arrays(self) -> dict[str, np.ndarray]:
        found = {f"{kind}.{name}": array for kind, s in self.stacks.items() for name, array in s.arrays().items()}
        return found | {f"{kind}.idf": idf for kind, idf in self.idf.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "TfidfFeatures":
        features = cls()
        for kind in _KINDS:
            own = {name.split(".", 1)[1]: array for name, array in arrays.items() if name.startswith(f"{kind}.")}
            features.idf[kind], features.stacks[kind] = own["idf"], LinearStack.from_arrays(own)
        return features


def _cosine(a: sparse.csr_matrix, b: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(a.multiply(b).sum(1)).ravel()
