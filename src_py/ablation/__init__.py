"""Is it the data or the code? Many short trainings on growing subsets, and what they say."""

from src_py.ablation.adaptive import ask
from src_py.ablation.answer import answer
from src_py.ablation.arms import REPAIRS, submission_arm
from src_py.ablation.grid import run_trials
from src_py.ablation.grid_settings import GridSettings, apply_preset, find_encoders, list_next_arms
from src_py.ablation.holdout import add_files, split_rows
from src_py.ablation.lever_results import HOW_TO_READ_LEVERS, answer_levers, lever_table, plot_levers
from src_py.ablation.levers import LEVERS
from src_py.ablation.next_step import steps_view
from src_py.ablation.plots import plot_curves, plot_repairs, save_figure
from src_py.ablation.problem import Problem
from src_py.ablation.results import (
    baselines,
    curve_table,
    main_size,
    name_control,
    repair_table,
    repair_view,
    results_table,
)
from src_py.ablation.schedule import (
    choose_levers,
    choose_sizes,
    describe_budget,
    list_trials,
    minutes_left,
    plan,
    plan_table,
    time_trials,
)
from src_py.ablation.settings import TrialSettings
from src_py.ablation.store import TrialStore, find_answered, find_runs, finished_model, write_record
