"""Everything that was trained, in one submission: members, their weights, and predictions of new rows."""

from src_py.blend.find import common_rows, find_members, member_table, say_left_out
from src_py.blend.plots import plot_calibration, plot_correlation, plot_worth
from src_py.blend.predict import answering, fit_into, forecast_line, measure_members, predict_members
from src_py.blend.report import BlendSettings, save_record, score_table
from src_py.blend.stacker import answer_lengths
from src_py.blend.weights import Blend, BlendChoice, choose_blend
