"""Distill a random forest into a small network on a table of which 500 rows are labeled and 3,000 are not.

The forest gets raw columns, the network standardized and one-hot columns of the same file. The network also learns from
the forest's predictions for rows without a label (an empty cell in the target column).
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier

import limbeck as lb
from limbeck.data import SelectColumn
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.metrics import accuracy, predict


def write_table(path: Path, rows: int, unanswered: int, seed: int) -> None:
    """Made-up loans: the label depends on four columns, eight more are noise, and one label in 20 is wrong."""
    draw = np.random.default_rng(seed)
    age, income, debt = draw.uniform(18, 80, rows), draw.gamma(3, 12, rows), draw.uniform(0, 1, rows)
    region = draw.choice(["north", "south", "east", "west"], rows)
    risky = ((debt > 0.55) & (income < 40)) ^ (np.isin(region, ["north", "west"]) & (age < 35))
    other = draw.normal(size=(rows, 8))
    repaid = np.where(risky ^ (draw.random(rows) < 0.05), "no", "yes")
    with open(path, "w", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(["age", "income", "debt", "region", *(f"other_{k}" for k in range(8)), "repaid"])
        for i in range(rows):
            answer = repaid[i] if i >= unanswered else ""
            others = [f"{value:.3f}" for value in other[i]]
            table.writerow([f"{age[i]:.1f}", f"{income[i]:.2f}", f"{debt[i]:.3f}", region[i], *others, answer])


def all_rows(examples: lb.ArrayDataset) -> lb.Batch:
    return examples.take(torch.arange(len(examples)))


def train_network(stage: lb.Stage, train: lb.ArrayDataset, seed: int) -> torch.nn.Module:
    network = lb.build("mlp", seed=seed, inputs=all_rows(train).inputs.shape[1], hidden=[32], classes=2)
    budget = {"epochs": 40, "batch_size": 512, "seed": seed, "optimizer": lb.Optimizer(lr=1e-2)}
    return lb.distill(network, stage, train, **budget).finish().student


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    write_table(folder / "loans.csv", rows=3500, unanswered=3000, seed=0)
    write_table(folder / "later.csv", rows=4000, unanswered=0, seed=1)
    train, encoding = lb.read_table(folder / "loans.csv", target="repaid")
    test = all_rows(lb.read_table(folder / "later.csv", target="repaid", encoding=encoding)[0])

    answered = all_rows(train.select((train.labels >= 0).nonzero().flatten()))
    forest = RandomForestClassifier(100, min_samples_leaf=2, max_features=0.5, random_state=0)
    forest.fit(answered.extra["raw"], answered.labels)
    print(f"forest             {(forest.predict(test.extra['raw']) == test.labels.numpy()).mean():.3f}")

    alone = lb.Stage(lb.Loss(cross_entropy))
    taught = lb.Stage(
        0.1 * lb.Loss(cross_entropy) + 0.9 * lb.Loss(kl_divergence),
        teacher=lb.SklearnTeacher(forest, preprocess=SelectColumn("raw")),
    )
    for name, stage in {"network alone": alone, "network distilled": taught}.items():
        scores = [accuracy(predict(train_network(stage, train, seed), [test])).value for seed in range(3)]
        print(f"{name:18} {np.mean(scores):.3f}  ({', '.join(f'{score:.3f}' for score in scores)})")
