"""The levers of an ablation: what may bring the recipe's loss down, each by itself."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Lever:
    """One change of the recipe.

    Args:
        says: what it does, in plain words.
        changes: fields of `Reading`, `ModelSettings` or `TrainingSettings`, and their new values.
        needs: what the training rows must have for it, a key of `NEEDS`; "" for nothing.
        longer: texts are so many times longer in prediction than in training.
        models: so many are trained, with different seeds, and averaged.
    """

    says: str
    changes: dict[str, Any] = field(default_factory=dict)
    needs: str = ""
    longer: int = 1
    models: int = 1


NEEDS = {  # what is missing where a lever cannot be measured, and what to do
    "soft": "a teacher's probabilities; name their file in CFG.soft_labels",
    "pseudo": "pseudo-labelled rows; name their files in CFG.pseudo_files",
    "extra": "further labelled rows; name their files in CFG.extra_files",
    "names": "the columns model_a and model_b in the training file",
}

LEVERS = {
    "features_off": Lever("without counted length and format beside what the encoder reads", {"features": "off"}),
    "features_alone": Lever("counted length and format without the encoder", {"features": "alone"}),
    "network_head": Lever("a small network compares the two answers' vectors", {"head": "network"}),
    "attention_pooling": Lever("tokens are weighted by learned attention, not averaged", {"pooling": "attention"}),
    "last4_pooling": Lever("the last four layers are averaged, not the last alone", {"pooling": "last4"}),
    "cls_pooling": Lever("the first token's vector stands for the text", {"pooling": "cls"}),
    "no_encoder_dropout": Lever("the encoder is trained without dropout", {"encoder_dropout": 0.0}),
    "lora": Lever("only low-rank additions to the encoder are trained", {"lora_rank": 16}),
    "cosine": Lever("the learning rate falls along a cosine, not a line", {"schedule": "cosine"}),
    "ema": Lever("the weights are a moving average over the steps", {"ema": 0.99}),
    "label_smoothing": Lever("a tenth of each label is spread over all classes", {"label_smoothing": 0.1}),
    "names": Lever("the model also learns to name the two chatbots", {"names_loss": 0.2}, "names"),
    "reinit": Lever("the top layer starts from random weights", {"reinit_layers": 1}),
    "longer_prediction": Lever("twice the tokens are read in prediction", longer=2),
    "soft_labels": Lever("a teacher's probabilities are learned beside the labels", needs="soft"),
    "pseudo_labels": Lever("rows that only a teacher labelled are added", needs="pseudo"),
    "extra_rows": Lever("labelled rows of further files are added", needs="extra"),
    "two_seeds": Lever("two models of different seeds are averaged", models=2),
}
