"""Faults of the rows: labels, texts, and the split."""

import numpy as np
import pandas as pd

from benchmarks.doctor_bench import world
from benchmarks.doctor_bench.case import OURS, Case
from benchmarks.doctor_bench.fault import fault, joint

KNOWN = ("train", "valid")  # the parts whose labels the competitor has
SIGNAL, LABELS, SIDES = ("signal in labels",), ("labels",), ("prompts on both sides",)
CASED = ("deberta", "roberta", "modernbert")
UNKNOWN = ("unknown tokens", "tokens per character")


def labels(case: Case, change, parts: tuple[str, ...] = KNOWN) -> None:
    """Change the labels of `parts`: `change` gets them and a random generator."""

    def edit(tables):
        for number, part in enumerate(parts):
            rng = np.random.default_rng((7, number))
            tables[part] = tables[part].assign(label=np.asarray(change(tables[part]["label"].to_numpy(), rng)))

    case.edit_tables.append(edit)


def texts(case: Case, change, parts: tuple[str, ...] = (*KNOWN, "test"), columns=("response_a", "response_b")) -> None:
    """Change every text of `parts`."""

    def edit(tables):
        for part in parts:
            changed = {name: [[change(turn) for turn in turns] for turns in tables[part][name]] for name in columns}
            tables[part] = tables[part].assign(**changed)

    case.edit_tables.append(edit)


def training_rows(case: Case, change) -> None:
    """Change the training table."""

    def edit(tables):
        tables["train"] = change(tables["train"]).reset_index(drop=True)

    case.edit_tables.append(edit)


@fault("data", before=SIGNAL)
def labels_shuffled(case):
    labels(case, lambda old, rng: rng.permutation(old))


@fault("data", before=("ties and sides",))
def labels_off_by_one(case):
    """Class 0 is called 1, and so on round: consistent in itself, wrong on the test rows."""
    labels(case, lambda old, rng: (old + 1) % case.classes)


@fault("data", before=LABELS)
def labels_start_at_one(case):
    labels(case, lambda old, rng: old + 1)


@fault("data", before=("signal in labels", "labels and row order"))
def labels_follow_the_position(case):
    labels(case, lambda old, rng: np.arange(len(old)) % case.classes)


@fault("data", before=SIGNAL)
def labels_of_the_row_before(case):
    """A join by position after one table lost its first row."""
    labels(case, lambda old, rng: np.roll(old, 1))


@fault("data", before=SIGNAL)
def most_labels_random(case):
    labels(case, lambda old, rng: np.where(rng.random(len(old)) < 0.7, rng.integers(case.classes, size=len(old)), old))


@fault("data", before=LABELS)
def one_class_only(case):
    labels(case, lambda old, rng: np.zeros_like(old))


@fault("data", before=LABELS)
def one_class_absent(case):
    training_rows(case, lambda table: table[table["label"] != case.classes - 1])


@fault("data", kinds=(OURS,), before=SIGNAL)
def answers_swapped_for_half(case):
    def edit(tables):
        for part in KNOWN:
            table, odd = tables[part], np.arange(len(tables[part])) % 2 == 1
            a, b = table["response_a"].to_numpy(), table["response_b"].to_numpy()
            tables[part] = table.assign(response_a=np.where(odd, b, a), response_b=np.where(odd, a, b))

    case.edit_tables.append(edit)


@fault("data", kinds=(OURS,), before=("two answers",))
def one_side_empty(case):
    texts(case, lambda text: "", columns=("response_b",))


@fault("data", before=("rows mostly cut", "rows cut"))
def cut_to_the_beginning(case):
    case.max_length = 16 if case.kind == OURS else 5


@fault("data", kinds=(OURS,), before=("one answer cut more",), encoders=world.COMPARING, base=joint)
def answer_b_cut_away(case):
    case.cut, case.max_length = "right", 40


@fault("data", before=SIDES)
def validation_rows_in_training(case):
    def edit(tables):
        tables["train"] = pd.concat([tables["train"], tables["valid"]], ignore_index=True)

    case.edit_tables.append(edit)


@fault("data", before=UNKNOWN)
def another_language(case):
    texts(case, lambda text: world.in_language(text, world.LANGUAGES["greek"]))


@fault("data", before=UNKNOWN, encoders=CASED)
def upper_case(case):
    """Of encoders that know lower and upper case apart."""
    texts(case, str.upper)


@fault("data", before=("markup in the text",))
def html_left_in(case):
    texts(case, lambda text: " ".join(f'<p class="x">{word}</p>' for word in text.split()))


@fault("data", before=("equal rows", "two answers"))
def constant_column(case):
    """The name of the model was read instead of its answer."""
    texts(case, lambda text: "model-x")


@fault("data", before=("equal rows",))
def few_rows_many_times(case):
    training_rows(case, lambda table: table.iloc[np.arange(len(table)) % 60])


@fault("data", before=("contradicting rows",))
def rows_contradict_each_other(case):
    """Each text occurs once with every label."""

    def change(table):
        rows = table.iloc[np.arange(len(table)) // case.classes]
        return rows.assign(label=np.arange(len(table)) % case.classes)

    training_rows(case, change)


@fault("data", before=("label in the text",))
def label_written_in_the_text(case):
    """A column that only training rows have leaks the answer."""

    def edit(tables):
        marks = ["ba co di", "fu ga he", "li mo nu", "pe ra si", "to vu we"]
        for part in KNOWN:
            marked = [
                [f"{marks[label]} {turns[0] if turns else ''}", *turns[1:]]
                for label, turns in zip(tables[part]["label"], tables[part]["response_a"])
            ]
            tables[part] = tables[part].assign(response_a=marked)

    case.edit_tables.append(edit)


@fault("data", before=("optimizer steps",))
def forty_rows(case):
    training_rows(case, lambda table: table.iloc[:40])


@fault("data", before=("labels of both sets",))
def training_rows_of_two_classes_swapped(case):
    """The label map of the training file is not that of the validation file."""
    swap = np.array([1, 0, *range(2, case.classes)])
    labels(case, lambda old, rng: swap[old], parts=("train",))
