"""Why a model does not learn: checks before training, a watcher during it, a verdict after it."""

from src_py.doctor.banner import verdict_banner
from src_py.doctor.check import check_before_training
from src_py.doctor.predicted import check_eval_rows
from src_py.doctor.verdict import judge_training
from src_py.doctor.watch import watch
