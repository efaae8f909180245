"""The contest and its text: which files, which columns, which rows to hold out, how a pair becomes tokens."""

from src_py.pairs.audit import add_extra, audit_extra, training_rows
from src_py.pairs.contest import find_contest, write_submission
from src_py.pairs.encode import Reading, encode_pairs, truncation_report
from src_py.pairs.extra import ExtraFiles, ExtraRows, load_extra
from src_py.pairs.groups import calibration_groups
from src_py.pairs.load import excerpt, load_pairs, prompt_key
from src_py.pairs.soft import check_teacher, load_pseudo, load_soft, soft_labels
from src_py.pairs.split import (
    CrossValidation,
    Validation,
    assign_folds,
    debug_line,
    debug_rows,
    file_name,
    log_spaced,
    nested_order,
)
from src_py.pairs.tokenizer import load_tokenizer
from src_py.pairs.topics import topic_of
from src_py.pairs.trivial import apply_trivial, check_priors, fit_trivial, judge_trivial
