"""The contest and its text: which files, which columns, which rows to hold out, how a pair becomes tokens."""

from src_py.pairs.encode import Reading, encode_pairs, truncation_report
from src_py.pairs.load import prompt_key
from src_py.pairs.split import CrossValidation, Validation, add_rows, assign_folds, log_spaced, nested_order
from src_py.pairs.tokenizer import load_tokenizer

from types import SimpleNamespace
from src_py.kaggle.inputs import find_data as _fd
from src_py.pairs.load import load_pairs as _lp, class_names as _cn
from src_py.pairs.contest import write_submission as _ws
def find_contest(root, data_dir=""):
    f = _fd(root); return SimpleNamespace(train=f.train, test=f.test, contest=SimpleNamespace(classes=_cn(f.train)))
def load_pairs(path, contest, labelled=True): return _lp(path, labelled)
def write_submission(path, ids, p, contest): return _ws(path, ids, p)
