"""How good predictions are: metrics, baselines to beat, tables and plots, blending."""

from src_py.evaluation.banner import judge_predictions
from src_py.evaluation.baselines import class_shares, constant_log_loss
from src_py.evaluation.blend import cross_fitted, fit_weights, mix
from src_py.evaluation.calibration import Calibration, CalibrationChoice, fit_calibration
from src_py.evaluation.metrics import apply_temperature, fit_temperature, score, standard_error
from src_py.evaluation.report import (
    as_html,
    as_texts,
    class_table,
    counts_of,
    folded,
    group_table,
    history_table,
    history_view,
    plot_groups,
    plot_learning,
    plot_predictions,
    read_predictions,
    validation_table,
)
