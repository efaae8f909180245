"""The fault matrix: one thing broken in a healthy set-up, and exactly the right check says so, with the remedy."""

import math
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel, Trainer

from src_py.ablation.posted import encode_posted, posted_config, posted_trainer
from src_py.doctor.check import check_before_training
from src_py.doctor.checks_model import _LargestValue
from src_py.doctor.checks_schedule import check_bf16, check_gpu_architecture
from src_py.doctor.findings import Setup, judge
from src_py.errors import InputError
from src_py.evaluation.baselines import class_shares
from src_py.kaggle.session import start_session
from src_py.model.encoder import encoder_layers
from src_py.model.heads import AttentionPooling
from src_py.model.preference import build_model
from src_py.pairs.contest import LMSYS
from src_py.pairs.encode import Reading, encode_pairs
from src_py.pairs.load import load_pairs
from src_py.pairs.split import assign_folds
from src_py.pairs.tokenizer import load_tokenizer
from src_py.training.trainer import TrainingSettings, make_trainer
from tests.conftest import seeds
from tools.demo_data import write_contest

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    write_contest(folder, train_rows=1300, test_rows=3, seed=5)
    table, _ = load_pairs(folder / "train.csv", LMSYS)
    folds = assign_folds(table, 5, seed=0)
    return table[folds != 0].reset_index(drop=True), table[folds == 0].reset_index(drop=True)


class Healthy:
    """A set-up that learns; every attribute can be changed before `check` builds the Trainer and asks the doctor."""

    def __init__(self, tiny, tables, folder, style="pairwise", seed=0):
        self.tiny, self.folder, self.style, self.seed = tiny, folder, style, seed
        self.train, self.valid = tables
        self.tokenizer = load_tokenizer(tiny)
        self.max_length, self.features = 128, "off"
        self.options = {"epochs": 2, "lr": 1e-3, "head_lr": 1e-3, "batch_size": 16, "micro_batch": 8, "warmup": 0.1}
        self.options |= {"evals_per_epoch": 2, "layer_decay": 1.0}
        self.edit_data = self.edit_model = self.edit_trainer = lambda thing: thing
        self.card_bytes = None

    def trainer(self):
        start_session(self.seed)
        sets = [self.edit_data(self.encode(table)) for table in (self.train, self.valid)]
        shares, counted = list(class_shares(self.train["label"], 3)), {"features": self.features, "train": sets[0]}
        model = build_model(self.tiny, self.tokenizer, self.style, shares, **counted)
        model = self.edit_model(model)
        trainer = make_trainer(
            model,
            *sets,
            pad_token_id=self.tokenizer.pad_token_id,
            output_dir=self.folder,
            settings=TrainingSettings(**self.options),
            seed=self.seed,
        )
        return self.edit_trainer(trainer) or trainer

    def encode(self, table):
        return encode_pairs(table, self.tokenizer, Reading(self.style, self.max_length, features=self.features))

    def check(self):
        return check_before_training(self.trainer(), self.tokenizer, self.train, self.valid, self.card_bytes)


def test_the_readme_and_the_notebook_say_how_many_checks_there_are(setup):
    count = len(setup.check().findings)
    assert f"runs {count} checks" in README.read_text(encoding="utf-8")
    notebook = README.parent / "notebooks/finetune_deberta.py"
    assert f"{count} known causes" in notebook.read_text(encoding="utf-8")


@pytest.fixture
def setup(tiny, tables, tmp_path):
    return Healthy(tiny, tables, tmp_path)


def posted_line_break(s):
    healthy = s.tokenizer
    s.encode = lambda table: encode_pairs(table, healthy, Reading(s.style, s.max_length, features=s.features))
    s.tokenizer = AutoTokenizer.from_pretrained(s.tiny)
    s.tokenizer.add_tokens(["\n"])


def cut_b(s):
    s.style = "joint"

    def cut(data):
        def one(row):
            ids = row["sequences"][0][:36]
            left = 36 - row["prompt_tokens"] - row["response_a_tokens"] - 3
            return {"sequences": [ids], "response_b_kept": max(0, min(left, row["response_b_tokens"]))}

        return data.map(one)

    s.edit_data = cut


def upper_case(s):
    for table in ("train", "valid"):
        frame = getattr(s, table).copy()
        for column in ("response_a", "response_b"):
            frame[column] = [[turn.upper() for turn in turns] for turns in frame[column]]
        setattr(s, table, frame)


def shuffled(s):
    s.train = s.train.assign(label=np.random.default_rng(0).permutation(s.train["label"]))


def off_by_one(s):
    s.train, s.valid = (table.assign(label=(table["label"] + 1) % 3) for table in (s.train, s.valid))


def no_prompts(s):
    s.train, s.valid = (table.assign(prompt=[[""]] * len(table)) for table in (s.train, s.valid))


def leak(s):
    s.valid = s.train[:200].reset_index(drop=True)


def offset(s):
    """Every token is its neighbour in the vocabulary."""

    def edit(data):
        return data.map(lambda row: {"sequences": [[i if i < 8 else i - 1 for i in ids] for ids in row["sequences"]]})

    s.edit_data = edit


def half_weights(s):
    def edit(model):
        model.encoder.half()
        return model

    s.edit_model = edit


def detached(s):
    def edit(model):
        encode = model.encode
        model.encode = lambda *inputs: encode(*inputs).detach()
        return model

    s.edit_model = edit


def labels_at_random(s):
    def edit(trainer):
        compute = trainer.compute_loss
        trainer.compute_loss = lambda model, inputs, *a, **k: compute(
            model, inputs | {"labels": torch.randint_like(inputs["labels"], 3)}, *a, **k
        )

    s.edit_trainer = edit


def loud_head(s):
    def edit(model):
        model.head.score.weight.data.mul_(2000)
        return model

    s.edit_model = edit


def loud_attention(s):
    def edit(model):
        for layer in encoder_layers(model.encoder):
            layer.attention.self.query_proj.weight.data.mul_(20000)
        return model

    s.edit_model = edit


def unsized_tokens(s):
    def edit(model):
        s.tokenizer.add_tokens([f"<later{i}>" for i in range(400)])
        return model

    s.edit_model = edit


def shrunk(s):
    def edit(model):
        model.encoder.resize_token_embeddings(len(s.tokenizer))
        return model

    s.edit_model = edit


def silent_token(s):
    def edit(model):
        model.encoder.get_input_embeddings().weight.data[s.tokenizer.convert_tokens_to_ids("\n")] *= 0.01
        return model

    s.edit_model = edit


def option(**changes):
    return lambda s: s.options.update(changes)


def attribute(**changes):
    return lambda s: s.__dict__.update(changes)


def trainer_edit(edit):
    return lambda s: s.__dict__.update(edit_trainer=edit)


def forgotten_parameters(trainer):
    del trainer.optimizer.param_groups[0]["params"][:3]


FAULTS = {
    "tokens per character": ("FAIL", posted_line_break, "normalized=False"),
    "one answer cut more": ("FAIL", cut_b, "separately"),
    "rows mostly cut": ("FAIL", attribute(max_length=16), "CFG.max_length"),
    "unknown tokens": ("FAIL", upper_case, "CFG.model_dir"),
    "labels": ("FAIL", lambda s: s.__dict__.update(train=s.train.assign(label=0)), "winner columns"),
    "tokens of the text": ("WARN", offset, "offset"),
    "signal in labels": ("WARN", shuffled, "shuffled"),
    "ties and sides": ("WARN", off_by_one, "off by one"),
    "prompts on both sides": ("FAIL", leak, "Split by prompt"),
    "weights": ("FAIL", half_weights, "dtype=torch.float32"),
    "gradients": ("FAIL", detached, "graph cut"),
    "memorises a batch": ("FAIL", labels_at_random, "belong together"),
    "loss at the start": ("FAIL", loud_head, "overconfident"),
    "fp16 head-room": ("WARN", loud_attention, "CFG.precision='fp32'"),
    "embedding rows": ("FAIL", unsized_tokens, "fit_embeddings"),
    "added tokens' norms": ("WARN", silent_token, "fit_embeddings"),
    "memory": ("FAIL", attribute(card_bytes=1_000_000), "CFG.micro_batch"),
    "pairs in a step": ("FAIL", option(batch_size=2, micro_batch=2), "CFG.batch_size"),
    "warmup": ("WARN", option(warmup=0.0), "CFG.warmup"),
    "learning rate": ("FAIL", option(lr=0.1), "CFG.lr"),
    "optimizer steps": ("WARN", option(epochs=0.5), "CFG.epochs"),
    "optimizer": ("FAIL", trainer_edit(forgotten_parameters), "parameter_groups"),
    "GPUs": ("FAIL", trainer_edit(lambda t: setattr(t.args, "_n_gpu", 2)), "DataParallel"),
    "NaN in the log": ("WARN", trainer_edit(lambda t: setattr(t.args, "logging_nan_inf_filter", True)), "logging_nan"),
}


# A fault that two checks name, each rightly.
ALSO = {"memorises a batch": ["loss of known predictions"]}


def test_the_healthy_setup_passes_everything(setup):
    report = setup.check()
    assert report.failed("FAIL", "WARN") == []
    assert report.seconds < 20
    report.stop_on_failure()
    assert "Nothing found that would keep this from learning." in report._repr_html_()


def test_padding_is_not_an_overflow_of_learned_pooling(setup):
    """On a GPU that trains in fp16 this would stop the notebook."""

    def edit(model):
        model.pool = AttentionPooling(model.encoder.config.hidden_size)
        return model

    setup.edit_model = edit
    assert setup.check()["fp16 head-room"].status == "PASS"


@pytest.mark.parametrize("check", FAULTS)
def test_exactly_the_right_check_names_the_fault(setup, check):
    status, break_it, remedy = FAULTS[check]
    break_it(setup)
    report = setup.check()
    assert report[check].status == status, str(report)
    assert remedy in report[check].advice
    # What follows from a fault may be warned of too; another check that FAILs would point to the wrong place.
    failed = [name for name in report.failed("FAIL") if name not in ALSO.get(check, [])]
    assert failed == ([check] if status == "FAIL" else []), str(report)
    if status == "FAIL":
        with pytest.raises(InputError, match=re.escape(check)):
            report.stop_on_failure()
        report.stop_on_failure(stop=False)


def test_prompts_that_are_empty_are_not_a_wrong_split(setup):
    no_prompts(setup)
    found = setup.check()["prompts on both sides"]
    assert (found.status, "how its column is read" in found.advice) == ("WARN", True)


def test_half_precision_weights_do_not_hide_a_wrong_loss(setup):
    def edit(trainer):
        trainer.compute_loss = lambda model, inputs, **_: model(**inputs)["logits"].square().mean()

    half_weights(setup)
    setup.edit_trainer = edit
    report = setup.check()
    assert set(report.failed()) == {"weights", "loss of known predictions"}
    assert report["gradients, memory"].status == "not checked"


@pytest.mark.slow
def test_counts_beside_the_text_fail_nothing(setup):
    setup.features = "on"
    report = setup.check()
    assert report.failed("FAIL", "WARN") == []
    assert "counts alone" in report["loss at the start"].measured


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        "tokens per character",
        "one answer cut more",
        "unknown tokens",
        "gradients",
        "memorises a batch",
        "loss at the start",
    ],
)
def test_counts_beside_the_text_hide_no_fault(setup, check):
    setup.features = "on"
    test_exactly_the_right_check_names_the_fault(setup, check)


@pytest.mark.parametrize(
    ("value", "status"),
    [(0.45, "PASS"), (0.46, "WARN"), (0.6, "WARN"), (0.61, "FAIL"), (math.nan, "FAIL")],
)
def test_the_stated_limit_is_the_one_applied(value, status):
    finding = judge("x", value, "advice", warn=(None, 0.45), fail=(None, 0.6))
    assert (finding.status, finding.limit) == (status, "at most 0.45 (fails above 0.6)")
    assert finding.advice == ("" if status == "PASS" else "advice")


def test_limits_on_both_sides_are_stated():
    finding = judge("x", 0.5, "", warn=(0.25, 4), fail=(0.1, 10), form="{:g}")
    assert finding.limit == "0.25 to 4 (fails below 0.1 or above 10)"
    assert judge("x", 3, "", fail=(None, 2)).limit == "at most 2 (fails otherwise)"
    assert judge("x", 3, "", warn=(16, None), form="{:d} pairs").limit == "at least 16 pairs"


def test_a_shrunk_embedding_matrix_is_warned_of(setup):
    shrunk(setup)
    finding = setup.check()["embedding rows"]
    assert finding.status == "WARN"
    assert re.search(r"cut \d+ pretrained rows", finding.advice)


def test_sequences_longer_than_the_model_reads(setup, tmp_path):
    config = BertConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config.max_position_embeddings = 32
    setup.tiny = tmp_path / "bert"
    BertModel(config).save_pretrained(setup.tiny)
    report = setup.check()
    assert report.failed() == ["sequence length"]
    assert "CFG.max_length to 32" in report["sequence length"].advice


def plain_trainer(tiny, tables, folder, accepts: bool):
    """A plain sequence classifier whose forward takes **kwargs, with gradients accumulated over four batches."""
    from dataclasses import replace

    config = replace(posted_config(), added_tokens=("<[PROMPT]>", "<[RESP_A]>", "<[RESP_B]>"), max_length=128, lr=1e-3)
    config = replace(config, batch_size=4, accumulation=4, warmup=0.1, epochs=2)
    trainer, tokenizer = posted_trainer(tiny, *tables, folder, config)
    if not accepts:
        trainer.model.accepts_loss_kwargs = False
        trainer = Trainer(
            model=trainer.model,
            args=trainer.args,
            train_dataset=trainer.train_dataset,
            eval_dataset=trainer.eval_dataset,
            data_collator=trainer.data_collator,
        )
    return trainer, tokenizer


def test_accumulation_that_multiplies_the_loss(tiny, tables, tmp_path):
    finding = check_before_training(*plain_trainer(tiny, tables, tmp_path, accepts=True))["logged loss"]
    assert finding.status == "WARN"
    assert finding.measured.startswith("4.0")
    assert "accepts_loss_kwargs = False" in finding.advice
    report = check_before_training(*plain_trainer(tiny, tables, tmp_path, accepts=False))
    assert report["logged loss"].status == "PASS"
    assert report.failed() == []


def test_bf16_that_is_emulated(setup, monkeypatch):
    trainer = setup.trainer()
    trainer.args.bf16 = True
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    finding = check_bf16(Setup(trainer))
    assert (finding.status, finding.advice) == ("FAIL", "Set CFG.precision='fp16'.")


@pytest.mark.parametrize(
    ("card", "built", "status"),
    [
        ((6, 0), ["sm_75", "sm_80"], "FAIL"),
        ((7, 5), ["sm_75", "sm_80"], "PASS"),
        ((8, 6), ["sm_80"], "PASS"),
        ((9, 0), ["sm_80"], "FAIL"),
        ((9, 0), ["sm_90a", "compute_80"], "PASS"),
    ],
)
def test_a_card_this_torch_was_not_built_for(setup, monkeypatch, card, built, status):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: card)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some card")
    finding = check_gpu_architecture(Setup(None))
    assert finding.status == status
    assert ("+cu126" in finding.advice) == (status == "FAIL")


@pytest.mark.parametrize(
    ("style", "micro_batch", "most"),
    [
        ("pairwise", 4, 2),
        pytest.param("pairwise", 1, None, marks=pytest.mark.slow),
        pytest.param("joint", 3, None, marks=pytest.mark.slow),
    ],
)
def test_no_check_puts_more_through_the_model_than_a_step_of_training(setup, style, micro_batch, most):
    setup.style, setup.options = style, setup.options | {"micro_batch": micro_batch, "evals_per_epoch": 0}
    trainer = setup.trainer()
    trainer.most, trainer.args.max_steps = most or trainer.most, 10
    seen = []

    def look(model, args, inputs):
        seen.append((len(inputs["labels"]), inputs["input_ids"].numel()))

    trainer.model.register_forward_pre_hook(look, with_kwargs=True)
    check_before_training(trainer, setup.tokenizer, setup.train, setup.valid)
    checked, seen[:] = [max(sizes) for sizes in zip(*seen)], []
    trainer.train()
    trained = [max(sizes) for sizes in zip(*seen)]
    assert checked[0] <= trained[0]
    assert checked[1] <= trained[1]


def test_attention_logits_are_found_in_fused_attention_too_with_their_bias():
    query, key, value = (torch.randn(2, 3, 5, 4) for _ in range(3))
    bias = torch.zeros(2, 1, 5, 5)
    bias[1, 0, 2, 3], bias[..., 4] = 5000.0, torch.finfo(torch.float32).min
    with _LargestValue() as largest:
        torch.nn.functional.scaled_dot_product_attention(query, key, value, bias)
    logits = (query @ key.transpose(-1, -2) / 2 + bias)[1, :, 2, 3]
    assert largest.value == pytest.approx(logits.max().item(), rel=1e-5)


def test_an_error_that_training_would_raise_fails_and_is_quoted(setup):
    setup.edit_trainer = lambda trainer: setattr(trainer, "data_collator", lambda rows: 1 / 0)
    report = setup.check()
    assert report.failed() == ["first step"]
    assert "ZeroDivisionError" in report["first step"].measured


def test_an_error_of_a_check_itself_is_not_the_set_up_s(setup, monkeypatch):
    monkeypatch.setattr("src_py.doctor.checks_learning.reference_lr", lambda model: 1 / 0)
    report = setup.check()
    assert report.failed() == []
    assert report["memorises"].status == "not checked"
    assert "ZeroDivisionError" in report["memorises"].measured


def test_training_is_bit_identical_with_and_without_the_doctor(setup):
    weights = []
    for ask in (False, True):
        trainer = setup.trainer()
        trainer.args.max_steps = 4
        if ask:
            check_before_training(trainer, setup.tokenizer, setup.train, setup.valid)
        trainer.train()
        weights.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_posted_notebook_fails_for_its_known_reasons_in_the_order_of_their_effect(tiny, tables, tmp_path):
    half = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=3).half()
    half.save_pretrained(tmp_path / "half")
    for name in ("spm.model", "tokenizer_config.json"):
        (tmp_path / "half" / name).write_bytes((tiny / name).read_bytes())
    config = posted_config()
    assert (config.batch_size, config.lr, config.max_length, config.warmup) == (2, 2e-5, 2048, 0.0)
    # One answer of 1,700 characters: shattered, it fills all 2,048 tokens, and B is gone.
    train = tables[0][:250].assign(response_a=[["wezo pemo " * 170]] * 250)
    trainer, tokenizer = posted_trainer(tmp_path / "half", train, tables[1], tmp_path, config)
    report = check_before_training(trainer, tokenizer, train, tables[1])
    failed = report.failed()
    wanted = ["tokens per character", "one answer cut more", "weights", "pairs in a step"]
    assert [check for check in failed if check in wanted] == wanted
    assert "warmup" in report.failed("WARN")


def test_the_posted_encoding_counts_what_it_cuts(tiny, tables):
    tokenizer = load_tokenizer(tiny)
    whole, cut = (encode_posted(tables[0][:20], tokenizer, length) for length in (2048, 40))
    for part in ("prompt", "response_a", "response_b"):
        assert whole[f"{part}_kept"] == whole[f"{part}_tokens"]
    assert sum(cut["response_b_kept"]) < 0.5 * sum(cut["response_b_tokens"])
    assert max(len(sequences[0]) for sequences in cut["sequences"]) == 40


def test_the_three_lines_of_the_readme_work_on_a_plain_trainer(tiny, tables, tmp_path):
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL).group(1)
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(("from ", "#"))]
    assert len(lines) == 3
    trainer, tokenizer = plain_trainer(tiny, tables, tmp_path, accepts=False)
    trainer.args.max_steps, trainer.args.eval_steps, trainer.args.eval_strategy = 4, 2, "steps"
    exec(textwrap.dedent(code), {"trainer": trainer, "tokenizer": tokenizer})
    assert trainer.state.global_step == 4
    assert any("eval_spread" in entry for entry in trainer.state.log_history)


@pytest.mark.parametrize("style", ["pairwise", "joint"])
@pytest.mark.parametrize("seed", seeds(20))
def test_no_false_alarm(tiny, tables, tmp_path, style, seed):
    report = Healthy(tiny, tables, tmp_path, style, seed).check()
    assert report.failed() == [], str(report)
