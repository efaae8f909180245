"""What the platform gives and takes: attached inputs, hardware, time, files that survive, runs that resume."""

from src_py.kaggle.clock import HIDDEN_ROWS, Clock
from src_py.kaggle.files import require_space, scratch_folder, write_csv, write_text
from src_py.kaggle.identity import identify, key_of
from src_py.kaggle.inputs import DataPaths, Paths, find_extra
from src_py.kaggle.page import FoldedLog, say
from src_py.kaggle.resume import (
    RunFiles,
    RunSettings,
    begin_run,
    end_run,
    find_finished,
    is_scoring_run,
    recorded_run,
)
from src_py.kaggle.session import (
    Machine,
    Session,
    Training,
    choose_precision,
    describe_hardware,
    free_memory,
    start_session,
    visible_gpus,
)
