"""The doctor on real pairs: the posted notebook's set-up beside the recipe's.

    python -m benchmarks.doctor_report DATA_FOLDER MODEL_FOLDER

DATA_FOLDER holds train.csv or train.parquet; nothing is trained.
"""

import sys
import tempfile
from dataclasses import replace

import pandas as pd

from src_py.ablation.posted import posted_config, posted_trainer
from src_py.doctor import check_before_training
from src_py.evaluation import class_shares
from src_py.kaggle import start_session
from src_py.model import build_model
from src_py.model.families import max_tokens
from src_py.pairs import Reading, assign_folds, encode_pairs, find_contest, load_pairs, load_tokenizer
from src_py.training import TrainingSettings, make_trainer

T4_BYTES = int(15.6e9)


def main(data: str, model: str) -> None:
    start_session(0)
    files = find_contest(data)
    table, _ = load_pairs(files.train, files.contest)
    folds = assign_folds(table, 5, seed=0)
    train, valid = table[folds != 0], table[folds == 0]
    columns = {"posted": posted(model, train, valid), "recipe": recipe(model, train, valid, files.contest.classes)}
    names = list(dict.fromkeys(f.check for report in columns.values() for f in report.findings))
    rows = {name: {who: _cell(report, name) for who, report in columns.items()} for name in names}
    print(pd.DataFrame(rows).T.to_string())
    for who, report in columns.items():
        print(f"\n{who}: {len(report.findings)} checks in {report.seconds:.1f} s, FAIL: {report.failed() or 'none'}")
        for finding in report.findings:
            if finding.advice:
                print(f"  {finding.status} {finding.check}: {finding.advice}")


def posted(model, train, valid):
    config = posted_config()
    # BERT cannot read the posted 2,048 tokens.
    config = replace(config, max_length=min(config.max_length, max_tokens(model) or config.max_length))
    few = train.sample(frac=config.train_share, random_state=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer, tokenizer = posted_trainer(model, few, valid, folder, config)
        return check_before_training(trainer, tokenizer, few, valid, T4_BYTES)


def recipe(model, train, valid, classes):
    tokenizer = load_tokenizer(model)
    fresh = build_model(model, tokenizer, "pairwise", list(class_shares(train["label"], len(classes))))
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            fresh,
            *(encode_pairs(table, tokenizer, Reading()) for table in (train, valid)),
            pad_token_id=tokenizer.pad_token_id,
            output_dir=folder,
            settings=TrainingSettings(),
            classes=classes,
        )
        return check_before_training(trainer, tokenizer, train, valid, T4_BYTES)


def _cell(report, name: str) -> str:
    found = next((f for f in report.findings if f.check == name), None)
    return "" if found is None else f"{found.status}  {found.measured}"


if __name__ == "__main__":
    main(*sys.argv[1:])
