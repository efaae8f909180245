"""Clusters of prompts. (A stand-in: the real one replaces it.)"""

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer

from src_py.pairs.load import prompt_key


def topic_of(table: pd.DataFrame, seed: int, count: int) -> np.ndarray:
    """Number of every row's topic, int64 of shape (rows,)."""
    codes, prompts = pd.factorize(prompt_key(table))
    counts = TfidfVectorizer(max_features=2000, sublinear_tf=True).fit_transform(prompts)
    return KMeans(min(count, len(prompts)), n_init=1, random_state=seed).fit_predict(counts)[codes].astype(np.int64)
