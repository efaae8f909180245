"""Faults of the model: its weights, its layers, its head."""

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from benchmarks.doctor_bench.case import OURS, PLAIN, Case
from benchmarks.doctor_bench.fault import fault
from src_py.model.encoder import encoder_embeddings, encoder_layers

OTHER_SEED = 99


def encoder_of(model) -> nn.Module:
    """The pretrained part."""
    return model.encoder if hasattr(model, "architecture") else model.base_model


def head_of(model) -> list[nn.Parameter]:
    """Weights outside of the pretrained part."""
    inside = {id(p) for p in encoder_of(model).parameters()}
    return [p for p in model.parameters() if id(p) not in inside]


def fresh(model) -> nn.Module:
    """An encoder of the same configuration with random weights, not those that the tiny encoder began with."""
    encoder = encoder_of(model)
    torch.manual_seed(OTHER_SEED)
    return type(encoder)(encoder.config)


def pool_with(case: Case, pooled) -> None:
    """Another pooling of (hidden, mask) in our model."""

    def edit(model):
        def pool(input_ids, attention_mask):
            return pooled(model.encoder(input_ids=input_ids, attention_mask=attention_mask)[0].float(), attention_mask)

        model._pooled = pool

    case.edit_model.append(edit)


@fault("model", before=("pretrained weights",))
def weights_not_loaded(case):
    case.edit_model.append(
        lambda model: encoder_of(model).load_state_dict(fresh(model).state_dict(), strict=False) and None
    )


@fault("model", before=("pretrained weights",))
def weights_half_loaded(case):
    """The top layer's names did not match."""

    def edit(model):
        layer, other = encoder_layers(encoder_of(model))[-1], encoder_layers(fresh(model))[-1]
        layer.load_state_dict(other.state_dict())

    case.edit_model.append(edit)


@fault("model", kinds=(PLAIN,), before=("pretrained weights",))
def wrong_prefix_in_the_state_dict(case):
    """A state dict saved from a wrapper, read with strict=False: nothing matches, and nothing is said."""

    def load(folder, classes):
        config = AutoConfig.from_pretrained(folder, num_labels=classes)
        torch.manual_seed(OTHER_SEED)
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        saved = AutoModel.from_pretrained(folder, dtype=torch.float32).state_dict()
        model.load_state_dict({f"module.encoder.{name}": value for name, value in saved.items()}, strict=False)
        model.accepts_loss_kwargs = False
        return model

    case.from_model = load


@fault("model", before=("pretrained weights",))
def embeddings_not_loaded(case):
    def edit(model):
        other = encoder_embeddings(fresh(model))
        encoder_embeddings(encoder_of(model)).load_state_dict(other.state_dict())

    case.edit_model.append(edit)


@fault("model", before=("weights",))
def weights_in_fp16(case):
    case.edit_model.append(lambda model: pretrained_or_all(case, model).half() and None)


@fault("model", before=("weights",))
def weights_in_bf16(case):
    case.edit_model.append(lambda model: pretrained_or_all(case, model).bfloat16() and None)


def pretrained_or_all(case: Case, model) -> nn.Module:
    """What `from_pretrained` loads: of our model the encoder, else all of it."""
    return encoder_of(model) if case.kind == OURS else model


@fault("model", before=("trained parts",))
def encoder_frozen(case):
    case.edit_model.append(lambda model: encoder_of(model).requires_grad_(False) and None)


@fault("model", before=("trained parts",))
def head_frozen(case):
    def edit(model):
        for parameter in head_of(model):
            parameter.requires_grad = False

    case.edit_model.append(edit)


@fault("model", before=("optimizer",), kinds=(PLAIN,))
def everything_frozen(case):
    case.edit_model.append(lambda model: model.requires_grad_(False))


@fault("model", before=("gradients",))
def graph_detached(case):
    def edit(model):
        encoder = encoder_of(model)
        forward = encoder.forward

        def detached(*args, **kwargs):
            out = forward(*args, **kwargs)
            out[next(iter(out.keys()))] = out[0].detach()
            if out.get("pooler_output") is not None:
                out["pooler_output"] = out["pooler_output"].detach()
            return out

        encoder.forward = detached

    case.edit_model.append(edit)


@fault("model", before=("gradients",))
def encoder_without_gradients(case):
    """Called under no_grad, as for embeddings that are computed once."""

    def edit(model):
        encoder = encoder_of(model)
        encoder.forward = torch.no_grad()(encoder.forward)

    case.edit_model.append(edit)


@fault("model", before=("activation",))
def activation_missing(case):
    def edit(model):
        for module in encoder_of(model).modules():
            for name in ("intermediate_act_fn", "act"):
                if hasattr(module, name):
                    setattr(module, name, nn.Identity())

    case.edit_model.append(edit)


@fault("model", before=("dropout",))
def dropout_of_nine_tenths(case):
    def edit(model):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.9
            if isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = 0.9

    case.edit_model.append(edit)


@fault("model", kinds=(OURS,), before=("padding",))
def pooled_over_padding(case):
    pool_with(case, lambda hidden, mask: hidden.mean(1))


@fault("model", kinds=(OURS,), before=("padding",))
def last_token_pooled(case):
    """The last place of a padded row is padding."""
    pool_with(case, lambda hidden, mask: hidden[:, -1])


@fault("model", kinds=(OURS,), before=("rows of a batch",))
def rows_pooled_together(case):
    """Each vector gets a part of its neighbour's, as after a view over the wrong axis."""

    def pooled(hidden, mask):
        mean = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return 0.5 * mean + 0.5 * mean.roll(1, 0)

    pool_with(case, pooled)


@fault("model", before=("training and evaluation mode",))
def outputs_exchanged_in_evaluation(case):
    """The first two outputs change places where predictions are made."""

    def edit(model):
        def exchange(module, args, kwargs, out):
            if not module.training:
                order = [1, 0, *range(2, out["logits"].shape[1])]
                out["logits"] = out["logits"][:, order]
            return out

        model.register_forward_hook(exchange, with_kwargs=True)

    case.edit_model.append(edit)


@fault("model", before=("labels",), kinds=(PLAIN,))
def two_outputs_for_three_classes(case):
    case.from_model = _outputs(2)


@fault("model", before=("labels",), kinds=(PLAIN,))
def seven_outputs_for_three_classes(case):
    case.from_model = _outputs(7)


def _outputs(count: int):
    def load(folder, classes):
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=count, dtype=torch.float32)
        model.accepts_loss_kwargs = False
        return model

    return load


@fault("model", before=("gradients", "pretrained weights"))
def layer_norm_of_zero(case):
    """As after a conversion that renamed gamma and beta."""

    def edit(model):
        layer = encoder_layers(encoder_of(model))[-1]
        for name, parameter in layer.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                nn.init.zeros_(parameter)

    case.edit_model.append(edit)


@fault("model", before=("loss at the start",))
def head_starts_loud(case):
    def edit(model):
        for parameter in head_of(model):
            if parameter.ndim > 1:
                parameter.data.mul_(300)

    case.edit_model.append(edit)


@fault("model", before=("embedding rows",), kinds=(PLAIN,))
def embeddings_cut_to_the_tokenizer(case):
    case.edit_model.append(lambda model: model.resize_token_embeddings(len(case.tokenizer) - 100) and None)


@fault("model", before=("pretrained weights",))
def positions_without_meaning(case):
    """Position embeddings of zero, or relative ones of one value."""

    def edit(model):
        for name, parameter in encoder_of(model).named_parameters():
            if "position_embeddings" in name or "rel_embeddings" in name:
                nn.init.zeros_(parameter)

    case.edit_model.append(edit)


@fault("model", before=("loss at the start", "gradients", "first step"))
def a_weight_is_nan(case):
    def edit(model):
        layer = encoder_layers(encoder_of(model))[0]
        next(p for p in layer.parameters() if p.ndim > 1).data[0, 0] = float("nan")

    case.edit_model.append(edit)


@fault("model", before=("fp16 head-room",))
def attention_overflows_fp16(case):
    def edit(model):
        for name, parameter in encoder_of(model).named_parameters():
            if any(part in name for part in ("query", "Wqkv")) and parameter.ndim > 1:
                parameter.data.mul_(10000)

    case.edit_model.append(edit)
