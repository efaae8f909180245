"""Everything that was trained, in one submission: members, their weights, and predictions of new rows."""

from src_py.blend.find import common_rows, find_members, limiting_line, member_table, say_left_out, unchecked
from src_py.blend.member import Job
from src_py.blend.plots import plot_calibration, plot_correlation, plot_worth
from src_py.blend.predict import answering, forecast_line, measure_members, predict_members, scoring_line, who_fits
from src_py.blend.report import BlendSettings, save_record, score_table
from src_py.blend.stacker import answer_lengths
from src_py.blend.weights import Blend, BlendChoice, choose_blend
