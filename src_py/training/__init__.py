"""Fine-tuning: the Trainer, its batches and checkpoints, and one process for each GPU."""

from src_py.training.checkpoints import disk_needed
from src_py.training.forecast import Plan, forecast_run
from src_py.training.processes import fit
from src_py.training.trainer import TrainingSettings, make_trainer
