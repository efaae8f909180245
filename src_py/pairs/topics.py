"""Group prompts by what they are about."""

import numpy as np
import pandas as pd
from sklearn.cluster import BisectingKMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import Normalizer

from src_py.pairs.load import distinct_prompts

FEWEST, MOST = 20, 50
_DIMENSIONS = 50
_CHARACTERS = 2000  # of a prompt: its beginning says what it is about


def topic_count(prompts: int) -> int:
    """How many topics so many distinct prompts make: 20 to 50; fewer where a topic would have under two prompts."""
    return max(1, min(int(np.clip(prompts**0.5 / 4, FEWEST, MOST)), prompts // 2))


def topic_of(table: pd.DataFrame, seed: int, count: int = 0) -> np.ndarray:
    """Topic of every row, int64 of shape (rows,); rows with equal prompts have the same.

    Words and pieces of words of the prompts are weighted by TF-IDF, reduced to 50 numbers by a singular value
    decomposition, and parted again and again by k-means, the largest cluster first, so that none becomes too large.

    Args:
        count: number of topics; 0: chosen by `topic_count`. Fewer are made where fewer prompts differ.
    """
    number, prompts = distinct_prompts(table)
    texts = [prompt[:_CHARACTERS] for prompt in prompts]
    words = HashingVectorizer(n_features=2**16, alternate_sign=False, norm=None)
    pieces = HashingVectorizer(
        n_features=2**16, alternate_sign=False, norm=None, analyzer="char_wb", ngram_range=(4, 4)
    )
    union = make_union(
        make_pipeline(words, TfidfTransformer(sublinear_tf=True)),
        make_pipeline(pieces, TfidfTransformer(sublinear_tf=True)),
    )
    weighted = union.fit_transform(texts).tocsr()
    repeated = np.flatnonzero(weighted.getnnz(axis=0) > 1)  # what only one prompt has groups nothing
    if len(repeated) < 2:  # every prompt is unlike all others
        return (number % min(count or topic_count(len(texts)), len(texts))).astype(np.int64)
    dimensions = min(_DIMENSIONS, len(repeated))
    reduced = TruncatedSVD(dimensions, random_state=seed).fit_transform(weighted[:, repeated])
    vectors = Normalizer().fit_transform(reduced)
    count = min(count or topic_count(len(texts)), len(texts))
    clusters = BisectingKMeans(count, random_state=seed, bisecting_strategy="largest_cluster").fit(vectors)
    return clusters.labels_.astype(np.int64)[number]
