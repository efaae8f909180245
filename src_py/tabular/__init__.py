"""A pair as a few hundred columns: feature groups, the models that learn them, their folds, and the blend."""

from src_py.tabular.folds import FoldResult, check_folds, fit_fold, search_options
from src_py.tabular.forecast import forecast_features
from src_py.tabular.groups import Counted, FeatureSettings, embed_pairs, group_sets
from src_py.tabular.leaks import leak_table, stop_on_leak
from src_py.tabular.members import blend_members, choose_fine_tuned, weight_folds
from src_py.tabular.models import BoostSettings
from src_py.tabular.plots import plot_boosting, plot_models
from src_py.tabular.predict import predict_blend
from src_py.tabular.saved import (
    FINE_TUNED,
    OOF,
    RECIPE,
    SavedBlend,
    check_blend,
    encoder_digest,
    finished_fold,
    read_blend,
    save_blend,
    save_fold,
    save_options,
    saved_options,
)
