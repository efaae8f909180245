"""Word2Vec trained on the training texts: idf-weighted means of both answers and the prompt."""

import re

import numpy as np
import pandas as pd
from gensim.models import Word2Vec

from src_py.tabular.sides import FeatureGroup, Sides
from src_py.tabular.stacking import LinearStack

_WORD = re.compile(r"\w{1,30}|[^\w\s]")
WORDS = 400  # of a text
TEXTS = 20_000  # to learn vectors from; more take longer and change little


def split_words(table: pd.DataFrame) -> dict[str, list[list[str]]]:
    """Lower-case words and punctuation marks of each text, at most 400; nothing is fitted."""
    return {
        column: [_WORD.findall("\n".join(turns).lower())[:WORDS] for turns in table[column]]
        for column in ("prompt", "response_a", "response_b")
    }


class WordVectorFeatures(FeatureGroup):
    """Scores from `LinearStack` on the mean vectors, and similarities; vectors and idf come from training rows only."""

    def __init__(self, size: int = 64, epochs: int = 5, seed: int = 0):
        super().__init__(seed)
        self.size, self.epochs = size, epochs
        self.stack = LinearStack(alphas=(0.3, 3.0, 30.0), seed=seed)

    @staticmethod
    def count(table: pd.DataFrame, embed=None) -> dict[str, list[list[str]]]:
        return split_words(table)

    @staticmethod
    def take(counted: dict[str, list[list[str]]], rows: np.ndarray) -> dict[str, list[list[str]]]:
        return {column: [texts[i] for i in rows] for column, texts in counted.items()}

    def fit_transform(self, counted: dict[str, list[list[str]]], labels: np.ndarray, prompts: np.ndarray) -> Sides:
        texts = [text for column in counted.values() for text in column]
        sample = texts
        if len(texts) > TEXTS:
            drawn = np.random.default_rng(self.seed).choice(len(texts), TEXTS, replace=False)
            sample = [texts[i] for i in drawn]
        # One worker: with several, the order of updates and so the vectors would differ from run to run.
        model = Word2Vec(vector_size=self.size, epochs=self.epochs, min_count=3, workers=1, seed=self.seed)
        model.build_vocab(sample)
        if len(model.wv):  # with few rows no word may occur three times: then all features of the group are zero
            model.train(
                sample, total_examples=model.corpus_count, total_words=model.corpus_total_words, epochs=self.epochs
            )
        self.vocabulary = {word: i for i, word in enumerate(model.wv.index_to_key)}
        self.vectors = model.wv.vectors.astype(np.float32)
        seen = np.zeros(len(self.vocabulary))
        for text in texts:
            for word in set(text):
                if word in self.vocabulary:
                    seen[self.vocabulary[word]] += 1
        self.idf = np.log((1 + len(texts)) / (1 + seen)).astype(np.float32) + 1
        return self._sides(counted, lambda a, b: self.stack.fit_transform(a, b, labels, prompts))

    def transform(self, counted: dict[str, list[list[str]]]) -> Sides:
        return self._sides(counted, self.stack.transform)

    def _sides(self, words, scores) -> Sides:
        prompt, a, b = (self._means(words[column]) for column in ("prompt", "response_a", "response_b"))
        of_a, of_b, of_tie = scores(a, b)
        columns = ((of_a, (a * prompt).sum(1)), (of_b, (b * prompt).sum(1)), (of_tie, (a * b).sum(1)))
        side_a, side_b, shared = (np.stack(part, axis=1).astype(np.float32) for part in columns)
        names = ("word2vec score", "word2vec similarity to the prompt")
        return Sides(side_a, side_b, shared, names, ("word2vec tie score", "word2vec similarity"))

    def _means(self, texts: list[list[str]]) -> np.ndarray:
        """Unit vectors (texts, size); zero where no word is known."""
        means = np.zeros((len(texts), self.size), dtype=np.float32)
        for row, text in enumerate(texts):
            known = [self.vocabulary[word] for word in text if word in self.vocabulary]
            if known:
                mean = self.idf[known] @ self.vectors[known]
                means[row] = mean / max(1e-9, float(np.linalg.norm(mean)))
        return means

    def arrays(self) -> dict[str, np.ndarray]:
        words = np.array(list(self.vocabulary), dtype=np.str_)
        return {"words": words, "vectors": self.vectors, "idf": self.idf} | self.stack.arrays()

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "WordVectorFeatures":
        features = cls(size=arrays["vectors"].shape[1])
        features.vocabulary = {str(word): i for i, word in enumerate(arrays["words"])}
        features.vectors, features.idf = arrays["vectors"], arrays["idf"]
        features.stack = LinearStack.from_arrays(arrays)
        return features
