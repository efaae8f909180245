"""An encoder with a preference head: find, build, save, load it, and predict with it."""

from src_py.model.attention_choice import check_attention, choose_attention
from src_py.model.counted import predict_counts, without_text
from src_py.model.families import check_max_length, check_precision
from src_py.model.find import find_encoder
from src_py.model.fine_tuned import FineTuned, find_fine_tuned
from src_py.model.predict import PredictionSettings, predict_pairs
from src_py.model.preference import ModelSettings, build_model, check_options
from src_py.model.saved import (
    SavedSettings,
    find_trained,
    finished_models,
    model_names,
    predict_saved,
    read_settings,
    save_trained,
    stopped_models,
)
