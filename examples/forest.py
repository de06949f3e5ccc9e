"""A random forest teaches a small network on a table: the forest reads raw rows, the network standardised ones."""

import csv
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

import limbeck as lb
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.measure import accuracy, predict
from limbeck.sources import Field


def write_table(path: Path) -> None:
    """scikit-learn's breast-cancer measurements as a file, so that the example reads one."""
    found = load_breast_cancer()
    with open(path, "w", newline="") as opened:
        table = csv.writer(opened)
        table.writerow([*(name.replace(" ", "_") for name in found.feature_names), "diagnosis"])
        for row, target in zip(found.data, found.target, strict=True):
            table.writerow([*row, found.target_names[target]])


def network(inputs: int, seed: int) -> torch.nn.Module:
    return lb.build("mlp", seed=seed, inputs=inputs, hidden=[8], classes=2)


if __name__ == "__main__":
    path = Path(tempfile.mkdtemp()) / "patients.csv"
    write_table(path)
    table, _ = lb.read_table(path, target="diagnosis")
    train, test = lb.split(table, fraction=0.4, seed=0)
    rows = train.take(torch.arange(len(train)))
    forest = RandomForestClassifier(300, random_state=0, n_jobs=1).fit(rows.extra["raw"], rows.labels)

    forest_teaches = 0.2 * lb.Loss(cross_entropy) + 0.8 * lb.Loss(kl_divergence, temperature=2.0)
    teacher = lb.Scikit(forest, reads=Field("raw"))
    batch = test.take(torch.arange(len(test)))
    right = (torch.from_numpy(forest.predict(batch.extra["raw"])) == batch.labels).float().mean()
    print(f"forest            {right:.3f}")
    for name, stage in {
        "network alone": lb.Stage(lb.Loss(cross_entropy)),
        "network distilled": lb.Stage(forest_teaches, teacher=teacher),
    }.items():
        scores = []
        for seed in range(3):
            run = lb.distill(network(rows.inputs.shape[1], seed), stage, train, epochs=60, batch_size=32, seed=seed)
            scores.append(accuracy(predict(run.finish().student, [batch])).value)
        print(f"{name:17} {sum(scores) / 3:.3f}  (three seeds: {', '.join(f'{s:.3f}' for s in scores)})")
