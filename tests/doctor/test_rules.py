"""Rules about loss, batches, rows, first steps, loaded weights and evaluation: each names its fault, and no other."""

from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
import torch
from datasets import ClassLabel, Dataset
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
    get_scheduler,
)

from src_py.doctor.checks_agree import (
    check_label_in_text,
    check_labels_of_both_sets,
    check_markup,
    check_round_trip,
)
from src_py.doctor.checks_batch import (
    check_batch_labels,
    check_batch_tokens,
    check_modes,
    check_rows_alone,
    check_steps_rows,
)
from src_py.doctor.checks_evaluation import (
    _greater_is_better,
    check_best_model,
    check_metrics,
    check_names_of_classes,
    check_validation_rows,
)
from src_py.doctor.checks_learning import check_logged_loss
from src_py.doctor.checks_loaded import check_activation, check_loaded_weights, check_tokenizer
from src_py.doctor.checks_loss import check_logits, check_loss_of_known_predictions
from src_py.doctor.checks_rows import check_copies, check_label_order, check_padding_in_rows, check_special_tokens
from src_py.doctor.checks_schedule import check_learning_rate, check_optimizer, check_schedule, check_warmup
from src_py.doctor.checks_step import check_betas, check_decay, check_dropout, check_first_update, check_trained_parts
from src_py.doctor.checks_text import check_signal_in_labels, check_tokens_per_character
from src_py.doctor.findings import Setup
from src_py.doctor.untouched import tokenizer_untouched, untouched
from src_py.model.encoder import reference_lr
from tests.doctor.learners import collate, make_model, make_rows, plain_trainer

TOKENIZER = SimpleNamespace(cls_token_id=1, sep_token_id=2, cls_token="[CLS]", sep_token="[SEP]")
ROWS = make_rows(160, 1)


def found(check, folder, edit=None, **options):
    """The findings of a check on a small Trainer, worst first, after `edit` has changed it."""
    trainer = plain_trainer(folder, **{"train": ROWS, "valid": ROWS[:60]} | options)
    if edit:
        edit(trainer)
    with untouched(trainer):
        said = check(Setup(trainer, TOKENIZER))
    return sorted(said if isinstance(said, list) else [said], key=lambda f: ["FAIL", "WARN", "PASS"].index(f.status))


def worst(*args, **kwargs):
    return found(*args, **kwargs)[0].status


CHECKS = (
    check_batch_labels, check_batch_tokens, check_modes, check_rows_alone, check_steps_rows, check_validation_rows,
    check_loss_of_known_predictions, check_copies, check_padding_in_rows, check_special_tokens, check_betas,
    check_decay, check_dropout, check_first_update, check_trained_parts, check_logits, check_schedule, check_optimizer,
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_healthy_trainer_passes(check, tmp_path):
    assert {finding.status for finding in found(check, tmp_path)} == {"PASS"}


def training_loss(function):
    """Another loss, in training."""

    def edit(trainer):
        compute = trainer.compute_loss

        def replaced(model, inputs, return_outputs=False, **kwargs):
            _, outputs = compute(model, dict(inputs), return_outputs=True)
            return function(outputs["logits"], inputs["labels"])

        trainer.compute_loss = replaced

    return edit


@pytest.mark.parametrize(
    ("function", "status", "word"),
    [
        (lambda x, y: -cross_entropy(x, y), "FAIL", "below zero"),
        (lambda x, y: torch.nn.functional.nll_loss(x, y), "FAIL", "below zero"),
        (lambda x, y: cross_entropy(x.softmax(-1), y), "WARN", "softmax"),
        (lambda x, y: cross_entropy(x, y, label_smoothing=0.9), "FAIL", "get better"),
        (lambda x, y: cross_entropy(x / 100, y), "FAIL", "cost almost as much"),
        (lambda x, y: cross_entropy(x, y.roll(1)), "FAIL", "get better"),
        (lambda x, y: cross_entropy(x[:2], y[:2]), "FAIL", "no part"),
        (lambda x, y: cross_entropy(x.detach(), y), "FAIL", "detached"),
        (lambda x, y: cross_entropy(x, y, label_smoothing=0.1), "PASS", ""),
        (lambda x, y: cross_entropy(x, y, reduction="sum"), "WARN", "a sum over rows"),
        (lambda x, y: 5 * cross_entropy(x, y), "PASS", ""),
    ],
)
def test_a_loss_that_is_wrong(tmp_path, function, status, word):
    (finding,) = found(check_loss_of_known_predictions, tmp_path, training_loss(function))
    assert finding.status == status, finding
    assert word in finding.advice


def changed_batch(**changes):
    def collator(rows):
        batch = collate(rows)
        return batch | {name: change(batch[name]) for name, change in changes.items()}

    return collator


@pytest.mark.parametrize(
    ("check", "collator"),
    [
        (check_batch_labels, changed_batch(labels=lambda x: x.roll(1))),
        (check_batch_tokens, changed_batch(input_ids=lambda x: x[:, :6], attention_mask=lambda x: x[:, :6])),
        (check_batch_tokens, changed_batch(attention_mask=lambda x: 1 - x)),
        (check_batch_tokens, changed_batch(attention_mask=torch.ones_like)),
        (check_rows_alone, changed_batch(attention_mask=torch.ones_like)),
    ],
)
def test_a_collator_that_is_wrong(tmp_path, check, collator):
    assert worst(check, tmp_path, collator=collator) in ("FAIL", "WARN")


def test_a_mean_over_the_wrong_axis(tmp_path):
    def edit(trainer):
        trainer.model.bert.pooler.register_forward_hook(lambda module, inputs, out: out + out.mean(0, keepdim=True))

    said = {finding.check: finding.status for finding in found(_alone_or_not_checked, tmp_path, edit)}
    assert said["rows of a batch"] in ("FAIL", "WARN")


def test_a_row_that_gets_a_part_of_the_row_before_it(tmp_path):
    def edit(trainer):
        trainer.model.bert.pooler.register_forward_hook(lambda module, inputs, out: out + out.roll(1, 0))

    said = {finding.check: finding.status for finding in found(_alone_or_not_checked, tmp_path, edit)}
    assert said["rows of a batch"] in ("FAIL", "WARN")


def _alone_or_not_checked(setup):
    return [finding for finding in check_rows_alone(setup) if finding.status != "not checked"]


def test_evaluation_that_is_random_and_training_that_is_evaluation(tmp_path):
    def random(trainer):
        trainer.model.eval = lambda: trainer.model.train(True)

    assert worst(check_modes, tmp_path, random) == "FAIL"

    def never_random(trainer):
        trainer.model.train = lambda mode=True: torch.nn.Module.train(trainer.model, False)

    assert worst(check_modes, tmp_path, never_random) == "WARN"


def test_steps_of_one_class_and_rows_that_are_never_seen(tmp_path):
    labels = np.array([row["labels"] for row in ROWS])

    def steps(choose):
        def edit(trainer):
            made = torch.utils.data.DataLoader(ROWS, batch_sampler=choose, collate_fn=collate)
            trainer.get_train_dataloader = lambda: made

        return edit

    sorted_rows = np.argsort(labels, kind="stable").reshape(-1, 16).tolist()
    said = {f.check: f.status for f in found(check_steps_rows, tmp_path, steps(sorted_rows))}
    assert said == {"rows used": "PASS", "classes in a step": "FAIL"}
    said = {f.check: f.status for f in found(check_steps_rows, tmp_path, steps([list(range(16))] * 10))}
    assert said == {"rows used": "FAIL", "classes in a step": "PASS"}


@pytest.mark.parametrize(
    ("check", "rows", "status"),
    [
        (check_copies, [ROWS[0]] * 100, "FAIL"),
        (check_label_order, [row | {"labels": i % 3} for i, row in enumerate(ROWS)], "WARN"),
        (check_label_order, sorted(ROWS, key=lambda row: row["labels"]), "PASS"),
        (check_copies, [ROWS[i // 3] | {"labels": i % 3} for i in range(120)], "FAIL"),
        (check_special_tokens, [row | {"input_ids": row["input_ids"][1:-1]} for row in ROWS], "WARN"),
        (check_special_tokens, [row | {"input_ids": [1, *row["input_ids"]]} for row in ROWS], "WARN"),
        (check_padding_in_rows, [row | {"input_ids": row["input_ids"] + [3] * 8} for row in ROWS], "WARN"),
    ],
)
def test_rows_that_are_wrong(tmp_path, check, rows, status):
    assert worst(check, tmp_path, train=rows) == status


@pytest.mark.parametrize(
    ("check", "options", "status"),
    [
        (check_first_update, {"max_grad_norm": 1e-13}, "FAIL"),
        (check_first_update, {"optim": "sgd"}, "WARN"),
        (check_decay, {"weight_decay": 10.0}, "WARN"),
        (check_betas, {"adam_beta1": 0.999}, "WARN"),
        (check_validation_rows, {"valid": ROWS[:8]}, "WARN"),
    ],
)
def test_settings_that_are_wrong(tmp_path, check, options, status):
    assert worst(check, tmp_path, **options) == status


def test_a_frozen_head_a_frozen_encoder_and_dropout(tmp_path):
    assert worst(check_trained_parts, tmp_path, lambda t: t.model.classifier.requires_grad_(False)) == "FAIL"
    assert worst(check_trained_parts, tmp_path, lambda t: t.model.bert.requires_grad_(False)) == "WARN"
    assert worst(check_dropout, tmp_path, model=make_model(hidden_dropout_prob=0.9)) == "FAIL"


def test_the_first_steps_leave_no_trace(tmp_path):
    trainer = plain_trainer(tmp_path, train=ROWS, valid=ROWS[:60])
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with untouched(trainer):
        check_first_update(Setup(trainer))
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.state_dict().items())
    assert trainer.optimizer is None
    assert trainer.lr_scheduler is None


def test_layers_without_their_activation(tmp_path):
    def edit(trainer):
        for layer in trainer.model.bert.encoder.layer:
            layer.intermediate.intermediate_act_fn = torch.nn.Identity()

    assert worst(check_activation, tmp_path) == "PASS"
    assert worst(check_activation, tmp_path, edit) == "FAIL"


def test_weights_that_were_not_loaded(tmp_path):
    make_model().save_pretrained(tmp_path / "saved")

    def share(edit):
        model = BertForSequenceClassification.from_pretrained(tmp_path / "saved")
        edit(model)
        (finding,) = found(check_loaded_weights, tmp_path, model=model)
        return finding.status, finding.advice

    assert share(lambda model: None)[0] == "PASS"
    # Training moves weights, and they stay alike.
    assert share(lambda m: [p.data.add_(0.01 * torch.randn_like(p)) for p in m.parameters()])[0] == "PASS"
    status, advice = share(lambda m: torch.nn.init.normal_(m.bert.encoder.layer[1].output.dense.weight))
    assert (status, "layer.1.output.dense.weight" in advice) == ("WARN", True)
    assert share(lambda m: [torch.nn.init.normal_(p) for p in m.bert.parameters() if p.ndim > 1])[0] == "FAIL"


def test_metrics_that_do_not_look_at_the_predictions(tmp_path):
    def status(compute):
        return worst(check_metrics, tmp_path, lambda trainer: setattr(trainer, "compute_metrics", compute))

    assert status(lambda p: {"accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())}) == "PASS"
    assert status(lambda p: {"accuracy": float((p.label_ids == p.label_ids).mean())}) == "FAIL"


MANY, OTHERS = make_rows(500, 3, noise=0.1), make_rows(200, 4, noise=0.1)


def other_label(rows, change):
    return [row | {"labels": change(row["labels"])} for row in rows]


@pytest.mark.parametrize(
    ("valid", "statuses"),
    [
        (OTHERS, {"PASS"}),
        (other_label(OTHERS, lambda k: (k + 1) % 3), {"FAIL"}),
        ([row | {"labels": i % 3} for i, row in enumerate(OTHERS)], {"FAIL", "WARN"}),
    ],
)
def test_validation_labels_of_another_kind(tmp_path, valid, statuses):
    assert worst(check_labels_of_both_sets, tmp_path, train=MANY, valid=valid) in statuses


def test_sets_whose_words_say_nothing_are_not_compared(tmp_path):
    chance = [row | {"labels": i % 3} for i, row in enumerate(MANY)]
    with pytest.raises(ValueError, match="not checked"):
        found(check_labels_of_both_sets, tmp_path, train=chance, valid=OTHERS)


def test_a_label_that_is_written_in_the_text(tmp_path):
    marked = [row | {"input_ids": [1, 3 + row["labels"], 3, *row["input_ids"][1:]]} for row in ROWS]
    assert worst(check_label_in_text, tmp_path) == "PASS"
    assert worst(check_label_in_text, tmp_path, train=marked) == "WARN"


class Words:
    """A tokenizer of whole words, and of the two letters that some words have."""

    all_special_ids = (1, 2)

    def decode(self, ids, **_):
        return " ".join("<p>" if i == 9 else f"word{i}" for i in ids)

    def __call__(self, text, **_):
        if isinstance(text, list):
            return {"input_ids": [self(one)["input_ids"] for one in text]}
        return {"input_ids": [9 if word == "<p>" else int(word[4:]) % 50 for word in text.split()]}


def test_markup_and_tokens_of_another_tokenizer(tmp_path):
    def status(check, rows):
        trainer = plain_trainer(tmp_path, train=rows)
        return check(Setup(trainer, Words())).status

    few = [row | {"input_ids": [i % 40 + 10 for i in row["input_ids"]]} for row in ROWS]
    pages = [row | {"input_ids": [9, *row["input_ids"], 9]} for row in few]
    assert [status(check_markup, rows) for rows in (few, pages)] == ["PASS", "WARN"]
    other = [row | {"input_ids": [i + 55 for i in row["input_ids"]]} for row in few]
    assert [status(check_round_trip, rows) for rows in (few, other)] == ["PASS", "WARN"]


def test_text_beside_the_tokens_is_read_where_the_tokens_were_made_from_it(tmp_path):
    def said(check, change=lambda ids: ids, **columns):
        rows = []
        for number, row in enumerate(ROWS):
            ids = [i % 40 + 10 for i in row["input_ids"]]
            text = Words().decode(ids)
            rows.append(row | {"input_ids": change(ids)} | {k: v(number, text) for k, v in columns.items()})
        return check(Setup(plain_trainer(tmp_path, train=rows), Words()))

    def next_one(ids):
        return [i + 1 for i in ids]

    text = {"text": lambda number, text: text}
    halves = {"a": lambda number, text: text[: len(text) // 14 * 7 - 1], "b": lambda number, text: "word11 word12"}
    tagged, link = {"text": lambda _, text: f"<p> {text} <p>"}, {"id": lambda number, _: "word10 " * 40}
    assert said(check_round_trip, **text).status == "PASS"
    assert "+1" in said(check_round_trip, next_one, **text).measured
    assert said(check_round_trip, next_one).status == "PASS"  # each id is a word of the tokenizer
    for other in (link, halves, {"summary": lambda _, text: text[:13]}):
        assert said(check_round_trip, **other).status == "PASS"
    assert said(check_markup, **text).status == "PASS"
    assert said(check_markup, lambda ids: [9, *ids, 9], **tagged).status == "WARN"
    assert said(check_markup, **tagged | {"text": lambda _, text: "<p> " * 20 + text}).status == "PASS"  # cleaned since


def test_copies_do_not_predict_each_other(tmp_path):
    rng = np.random.default_rng(0)
    once = [row | {"labels": int(rng.integers(3))} for row in make_rows(450, 5)]
    assert worst(check_signal_in_labels, tmp_path, train=once * 2) == "WARN"
    assert worst(check_signal_in_labels, tmp_path, train=make_rows(450, 5) * 2) == "PASS"


def test_a_sampler_that_draws_with_replacement_uses_what_it_is_meant_to(tmp_path):
    def status(sampler):
        def edit(trainer):
            trainer._get_train_sampler = lambda *_: sampler

        return {f.check: f.status for f in found(check_steps_rows, tmp_path, edit)}["rows used"]

    weights = torch.ones(len(ROWS))
    weights[:16] = 20.0
    assert status(WeightedRandomSampler(weights, len(ROWS))) == "PASS"
    assert status(RandomSampler(ROWS, replacement=True)) == "PASS"
    assert status(SubsetRandomSampler([*range(20)] * 8)) == "FAIL"


def test_metrics_of_numpy_s_numbers_are_numbers(tmp_path):
    def status(metric):
        options = {"compute_metrics": metric}
        return check_metrics(Setup(plain_trainer(tmp_path, train=ROWS, trainer_options=options))).status

    def right(p):
        return (p.predictions.argmax(1) == p.label_ids).mean()

    assert status(lambda p: {"rows": 60, "accuracy": np.float32(right(p))}) == "PASS"
    assert status(lambda p: {"accuracy": np.float32(0.5)}) == "FAIL"
    assert status(lambda p: {"matrix": np.eye(2)}) == "not checked"


def test_a_tokenizer_truncates_and_pads_after_the_check_as_before(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer(["one text"], truncation=True, max_length=7, padding="max_length")
    before = tokenizer._tokenizer.truncation, tokenizer._tokenizer.padding
    with tokenizer_untouched(tokenizer):
        tokenizer(["one text"])
        assert tokenizer._tokenizer.truncation is None
    assert (tokenizer._tokenizer.truncation, tokenizer._tokenizer.padding) == before


def test_adapters_without_the_head_are_made_with_it(tmp_path):
    """Not `requires_grad_` on all that lies outside of the encoder: with peft, that is the whole model."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(make_model(), peft.LoraConfig(r=2, target_modules=["query"]))
    said = check_trained_parts(Setup(plain_trainer(tmp_path, model, train=ROWS)))
    assert (said.status, "modules_to_save=['classifier']" in said.advice) == ("FAIL", True)


def test_what_a_forward_pass_writes_into_the_configuration_is_taken_back(tmp_path):
    trainer = plain_trainer(tmp_path, train=[row | {"labels": [1.0, 0.0, 0.0]} for row in ROWS])
    before = dict(vars(trainer.model.config))
    with untouched(trainer):
        trainer.model.config.problem_type = "multi_label_classification"
    assert vars(trainer.model.config) == before


def test_a_part_that_has_no_rate_is_named(tmp_path):
    def edit(trainer):
        head = list(trainer.model.classifier.parameters())
        inside = list(trainer.model.bert.parameters())
        trainer.optimizer = torch.optim.AdamW([{"params": inside, "lr": 2e-3}, {"params": head, "lr": 1e-9}])

    (finding,) = found(check_first_update, tmp_path, edit)
    assert (finding.status, finding.measured.split(" of ")[0]) == ("WARN", "1")
    assert "classifier.weight" in finding.advice


def test_a_scheduler_at_zero_and_a_rate_of_zero_are_no_error_of_the_check(tmp_path):
    def edit(trainer):
        trainer.create_optimizer_and_scheduler(100)

    assert worst(check_first_update, tmp_path, edit) == "PASS"
    assert worst(check_first_update, tmp_path, learning_rate=0.0) == "FAIL"


def test_a_loss_that_is_bounded(tmp_path):
    def absolute(x, y):
        return (x.softmax(-1) - torch.nn.functional.one_hot(y, 3)).abs().mean()

    (finding,) = found(check_loss_of_known_predictions, tmp_path, training_loss(absolute))
    assert (finding.status, "unsure" in finding.advice) == ("WARN", True)


def test_a_train_method_of_the_user_s_own_is_still_there_afterwards(tmp_path):
    trainer = plain_trainer(tmp_path, train=ROWS, valid=ROWS[:60])
    own = trainer.model.train
    trainer.model.train = lambda mode=True: own(mode)
    before = trainer.model.train
    with untouched(trainer):
        check_logged_loss(Setup(trainer))
    assert trainer.model.train is before


def test_outputs_that_change_places_in_evaluation(tmp_path):
    def edit(trainer):
        def exchange(module, args, kwargs, out):
            if not module.training:
                out["logits"] = out["logits"][:, [1, 0, 2]]
            return out

        trainer.model.register_forward_hook(exchange, with_kwargs=True)

    assert worst(check_modes, tmp_path, edit) == "FAIL"


class Letters:
    """A tokenizer that takes `width` tokens for a letter of another alphabet than ours."""

    def __init__(self, width):
        self.width = width

    def get_vocab(self):
        return {"word": 0, "words": 1}

    def decode(self, ids, **_):
        return "αβγδ " * 6

    def __call__(self, texts, **_):
        return {"input_ids": [[0] * int(self.width * len(text)) for text in texts]}


@pytest.mark.parametrize(("width", "status"), [(2, "WARN"), (0.9, "PASS")])
def test_a_language_that_the_tokenizer_knows_as_bytes_only(tmp_path, width, status):
    finding = check_tokens_per_character(Setup(plain_trainer(tmp_path, train=ROWS), Letters(width)))
    assert (finding.status, "language" in finding.advice) == (status, status == "WARN")


def test_a_tokenizer_with_the_ids_of_another_model(tmp_path):
    def tokenizer(words):
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
        return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")

    words = [*(f"word{i}" for i in range(60)), "[UNK]"]
    make_model().save_pretrained(tmp_path / "saved")
    tokenizer(words).save_pretrained(tmp_path / "saved")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    added, moved, other = (
        tokenizer(w) for w in (words, ["new", *words], [f"other{w}" for w in words[:-1]] + ["[UNK]"])
    )
    added.add_tokens(["\n", "more"])

    def status(model, tokenizer):
        return check_tokenizer(Setup(plain_trainer(tmp_path, model=model, train=ROWS), tokenizer)).status

    assert [status(model, one) for one in (tokenizer(words), added, moved, other)] == ["PASS", "PASS", "FAIL", "FAIL"]
    assert [status(model, None), status(make_model(), moved)] == ["not checked"] * 2


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


@pytest.mark.parametrize(
    ("metric", "compute", "greater", "status"),
    [
        ("eval_loss", None, None, "PASS"),
        ("eval_loss", None, True, "FAIL"),
        ("accuracy", accuracy, None, "PASS"),
        ("accuracy", accuracy, False, "FAIL"),
        # The greatest is chosen where the name does not end with "loss", and this one is an error.
        ("distance", lambda p: {"distance": np.float32(1 - accuracy(p)["accuracy"])}, None, "FAIL"),
        ("kappa", accuracy, None, "WARN"),  # an evaluation gives no such metric
        ("accuracy", None, None, "WARN"),
    ],
)
def test_the_worst_model_is_chosen_as_the_best_one(tmp_path, metric, compute, greater, status):
    chosen = {"load_best_model_at_end": True, "metric_for_best_model": metric, "greater_is_better": greater}
    saved = {"save_strategy": "steps", "save_steps": 10, "trainer_options": {"compute_metrics": compute}}
    (finding,) = found(check_best_model, tmp_path, **chosen, **saved)
    assert finding.status == status, finding
    assert finding.change == ({"greater_is_better": metric == "accuracy"} if status == "FAIL" else {})


def test_the_direction_of_metrics_that_cannot_be_measured_follows_from_their_names():
    assert _greater_is_better("eval_log_loss", None) == (False, False)
    assert _greater_is_better("macro_f1", None) == (True, False)
    assert _greater_is_better("neg_log_loss", None) == _greater_is_better("score", None) == (None, False)


def scheduler(make):
    def edit(trainer):
        trainer.create_optimizer()
        trainer.lr_scheduler = make(trainer.optimizer)

    return edit


STEPS = 40  # of 160 rows in steps of 16, four times


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda o: get_scheduler("constant", o), "PASS"),
        (lambda o: get_scheduler("linear", o, 4, STEPS), "PASS"),
        (lambda o: get_scheduler("cosine", o, 4, STEPS), "PASS"),
        (lambda o: get_scheduler("cosine_with_restarts", o, 0, STEPS, {"num_cycles": 3}), "PASS"),
        (lambda o: get_scheduler("polynomial", o, 4, STEPS, {"power": 3.0}), "PASS"),
        (lambda o: lr_scheduler.OneCycleLR(o, 2e-3, STEPS), "PASS"),
        (lambda o: lr_scheduler.StepLR(o, STEPS // 3, 0.1), "PASS"),
        (lambda o: get_scheduler("linear", o, 2, 10), "WARN"),
        (lambda o: lr_scheduler.OneCycleLR(o, 2e-3, 20), "WARN"),
        (lambda o: lr_scheduler.ExponentialLR(o, 0.5), "WARN"),
        (lambda o: lr_scheduler.StepLR(o, 2, 0.2), "WARN"),
        (lambda o: get_scheduler("linear", torch.optim.AdamW(o.param_groups[0]["params"]), 4, STEPS), "FAIL"),
    ],
)
def test_a_scheduler_that_ends_early_or_has_another_optimizer(tmp_path, make, status):
    trainer = plain_trainer(tmp_path, train=ROWS, valid=ROWS[:60])
    scheduler(make)(trainer)
    state, rates = trainer.lr_scheduler.state_dict().copy(), [g["lr"] for g in trainer.optimizer.param_groups]
    assert check_schedule(Setup(trainer)).status == status
    assert (check_warmup(Setup(trainer)).measured == 'see "schedule"') == (status != "PASS")
    assert trainer.lr_scheduler.state_dict() == state
    assert [g["lr"] for g in trainer.optimizer.param_groups] == rates


def test_the_rate_of_a_cycle_is_its_peak(tmp_path):
    peak = reference_lr(make_model())

    def status(rate):
        make = scheduler(lambda o: lr_scheduler.OneCycleLR(o, rate, STEPS))
        return worst(check_learning_rate, tmp_path, make)

    assert (status(peak), status(100 * peak)) == ("PASS", "FAIL")


def test_methods_that_add_metrics_are_not_accused_of_a_missing_one(tmp_path):
    class Adds(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            metrics["eval_kappa"] = 0.5

    chosen = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "kappa",
        "save_strategy": "steps",
        "save_steps": 10,
    }
    assert worst(check_best_model, tmp_path, **chosen) == "WARN"
    assert worst(check_best_model, tmp_path, lambda trainer: trainer.add_callback(Adds()), **chosen) == "PASS"


def test_a_scheduler_that_follows_the_validation_is_not_judged(tmp_path):
    trainer = plain_trainer(tmp_path, train=ROWS)
    assert check_schedule(Setup(trainer)).measured == "made by the Trainer"
    scheduler(lr_scheduler.ReduceLROnPlateau)(trainer)
    assert check_schedule(Setup(trainer)).status == "not checked"


def test_an_optimizer_that_climbs(tmp_path):
    def status(**options):
        def edit(trainer):
            trainer.optimizer = torch.optim.AdamW(trainer.model.parameters(), **options)

        return worst(check_optimizer, tmp_path, edit)

    assert (status(), status(maximize=True)) == ("PASS", "FAIL")


def test_all_layers_are_frozen_but_not_what_lies_around_them(tmp_path):
    def first(trainer):
        trainer.model.bert.encoder.layer[0].requires_grad_(False)

    assert worst(check_trained_parts, tmp_path, first) == "PASS"
    (finding,) = found(check_trained_parts, tmp_path, lambda t: t.model.bert.encoder.requires_grad_(False))
    assert (finding.status, finding.measured) == ("WARN", "encoder layers frozen")


@pytest.mark.parametrize(
    ("valid", "config", "status"),
    [
        (["a", "b", "tie"], None, "PASS"),
        (["b", "a", "tie"], None, "WARN"),
        (["x", "y", "z"], None, "PASS"),  # other words
        (["a", "b", "tie"], ["A", "B", "tie"], "PASS"),
        (["a", "b", "tie"], ["tie", "a", "b"], "WARN"),
    ],
)
def test_names_of_classes_in_another_order(tmp_path, valid, config, status):
    def edit(trainer):
        if config:
            trainer.model.config.id2label = dict(enumerate(config))

    sets = [
        Dataset.from_list(ROWS[:60]).cast_column("labels", ClassLabel(names=names))
        for names in (["a", "b", "tie"], valid)
    ]
    (finding,) = found(check_names_of_classes, tmp_path, edit, train=sets[0], valid=sets[1])
    assert finding.status == status, finding


@pytest.mark.parametrize("kind", ["", "softmax", "sigmoid", "tanh", "relu", "softmax, and its logarithm"])
def test_logits_that_went_through_an_activation(tmp_path, kind):
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = make_model()

        def forward(self, input_ids, attention_mask, labels):
            made = self.inside(input_ids, attention_mask).logits
            made = made.softmax(-1) if "softmax" in kind else getattr(torch, kind)(made) if kind else made
            loss = torch.nn.functional.nll_loss(made.log(), labels) if "log" in kind else cross_entropy(made, labels)
            return {"loss": loss, "logits": made}

    finding = check_logits(Setup(plain_trainer(tmp_path, model=Wrapped(), train=ROWS)))
    status = "not checked" if "log" in kind else "WARN" if kind else "PASS"
    assert finding.status == status, finding
    assert status != "WARN" or finding.measured.lower() == f"{kind} on the logits"
    model = Wrapped()  # equal predictions cost the same, with and without the activation
    torch.nn.init.zeros_(model.inside.classifier.weight)
    again = check_logits(Setup(plain_trainer(tmp_path, model=model, train=ROWS))).status
    assert again == {"not checked": "PASS"}.get(status, status)
