"""Che et al., 2015, arXiv:1512.03542: whether boosted trees learn from networks, and networks from a forest."""

from __future__ import annotations

import time
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.models import build
from limbeck.optional_imports import import_optional, install_command, is_installed
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, Row, TaskFolder, load_weights, save_weights
from limbeck.papers.small_images import ACCURACY, NLL, SECONDS
from limbeck.recipe import Optimizer, Part
from limbeck.task_runner import WorkItem
from limbeck.teachers import SklearnTeacher
from limbeck.teachers.estimators import fit_probabilities, make_estimator

ARMS = {
    "trees": "boosted trees, labels",
    "trees, smoothed": "labels smoothed as much as the ensemble's outputs are soft",
    "trees, shuffled": "the ensemble's outputs for other rows of the same class",
    "trees, ensemble": "the mean of an ensemble of networks, weight 0.9, and labels",
    "network": "a small network, labels",
    "network, forest": "the probabilities of a forest, weight 0.9, and labels",
}
MEGABYTES = Figure("megabytes", "size", "MB", lower_is_better=True)
MILLISECONDS = Figure("milliseconds", "time of a row in 64", "ms", lower_is_better=True)
FIGURES = (ACCURACY, NLL, MEGABYTES, MILLISECONDS, SECONDS)
MEMBERS, WEIGHT = 5, 0.9
_SIZES = {True: (400, 30), False: (797, 200)}
"""Training rows and rounds of boosting, at scale quick or not."""


@cache
def load_rows() -> tuple[Tensor, Tensor]:
    """Scikit-learn's digits as a table: 1,797 rows of 64 numbers from 0 to 1, and their labels."""
    source = import_optional("sklearn.datasets", extra="sklearn", purpose="The study").load_digits()
    return torch.tensor(source.data / 16.0, dtype=torch.float32), torch.tensor(source.target)


def split_rows(seed: int, quick: bool) -> tuple[ArrayDataset, ArrayDataset]:
    """Draw the training rows of a seed; 1,000 of the others are for testing."""
    rows, labels = load_rows()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    train, test = order[1000 : 1000 + _SIZES[quick][0]], order[:1000]
    return ArrayDataset(rows[train], labels[train]), ArrayDataset(rows[test], labels[test])


def train_network(hidden: list[int], recipe: Part, train: ArrayDataset, *, seed: int, epochs: int) -> nn.Module:
    """Train a perceptron on rows."""
    net = build("mlp", seed=seed, inputs=64, hidden=hidden, classes=10)
    loader = ShuffledLoader(train, batch_size=32, seed=seed)
    optimizer = Optimizer("adamw", lr=5e-3, warmup=0.05)
    run = distill(net, recipe, loader, seed=seed, epochs=epochs, optimizer=optimizer, accelerator="cpu", log_every=1000)
    return run.finish().student.eval()


def train_ensemble(folder: TaskFolder, *, seed: int, quick: bool) -> Figures:
    """Train the ensemble of a seed, and save its mean probabilities of training and test rows."""
    train, test = split_rows(seed, quick)
    start = time.process_time()
    nets = nn.ModuleList(
        train_network([128, 128], make("supervised"), train, seed=100 * seed + 1000 + member, epochs=15)
        for member in range(MEMBERS)
    )
    save_weights(nets, folder)
    return {**measure(np.log(average(nets, test.inputs)), test), "seconds": time.process_time() - start}


def average(nets: nn.ModuleList, rows: Tensor) -> np.ndarray:
    """The mean of the probabilities of networks."""
    with torch.no_grad():
        mean = torch.stack([net(rows).double().softmax(-1) for net in nets]).mean(0)
    return np.asarray(mean.numpy())


def measure(log_probabilities: np.ndarray, test: ArrayDataset) -> dict[str, float]:
    """The accuracy in percent and the negative log-likelihood in nats."""
    labels = np.asarray(test.labels)
    right = log_probabilities.argmax(1) == labels
    nll = -log_probabilities[np.arange(len(labels)), labels]
    return {"accuracy": 100 * float(right.mean()), "nll": float(nll.mean())}


def soft_labels(arm: str, soft: np.ndarray, labels: np.ndarray, *, seed: int) -> np.ndarray:
    """The distribution of each training row that the trees of an arm learn.

    Example:
        >>> soft_labels("trees, ensemble", np.array([[0.5, 0.5]]), np.array([1]), seed=0)
        array([[0.45, 0.55]])
    """
    hard = np.eye(soft.shape[1])[labels]
    if arm == "trees, smoothed":
        # Smoothed labels with the ensemble's mean probability of the label.
        share = (1 - (soft * hard).sum(1).mean()) * soft.shape[1] / (soft.shape[1] - 1)
        soft = (1 - share) * hard + share / soft.shape[1]
    if arm == "trees, shuffled":
        draw, order = np.random.default_rng(seed), np.arange(len(soft))
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            order[own] = draw.permutation(own)
        soft = soft[order]
    mixed: np.ndarray = WEIGHT * soft + (1 - WEIGHT) * hard
    return mixed


def fit_trees(arm: str, ensemble: nn.ModuleList, train: ArrayDataset, *, seed: int, rounds: int) -> Any:
    """Fit boosted trees by one of the arms."""
    trees = make_estimator("hist_gradient_boosting", max_iter=rounds, max_leaf_nodes=15, random_state=seed)
    rows, labels = train.inputs.numpy(), np.asarray(train.labels)
    if arm == "trees":
        return trees.fit(rows, labels)
    return fit_probabilities(trees, rows, soft_labels(arm, average(ensemble, train.inputs), labels, seed=seed))


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train trees or a network by one of the arms, and measure them."""
    (train, test), rounds = split_rows(seed, quick), _SIZES[quick][1]
    start = time.process_time()
    if arm.startswith("trees"):
        made = (build("mlp", seed=0, inputs=64, hidden=[128, 128], classes=10) for _ in range(MEMBERS))
        ensemble: Any = load_weights(nn.ModuleList(made), folder, _ensemble_task(seed))
        model: Any = SklearnTeacher(fit_trees(arm, ensemble, train, seed=seed, rounds=rounds), classes=10)
        seconds, size = time.process_time() - start, _pickled_megabytes(model.estimator)
        predict = model.log_probabilities
    else:
        net = _train_student(arm, train, seed=seed)
        seconds, size = time.process_time() - start, sum(p.numel() for p in net.parameters()) * 4e-6
        predict = partial(_log_probabilities, net)
    figures = measure(np.asarray(predict(test.inputs)), test)
    return {**figures, "megabytes": size, "milliseconds": _time(predict, test.inputs[:64]), "seconds": seconds}


def _train_student(arm: str, train: ArrayDataset, *, seed: int) -> nn.Module:
    if arm == "network":
        return train_network([16], make("supervised"), train, seed=seed, epochs=40)
    forest = make_estimator("random_forest", n_estimators=200, random_state=seed)
    forest.fit(train.inputs.numpy(), np.asarray(train.labels))
    recipe = make("hinton", teacher=SklearnTeacher(forest, classes=10), temperature=1.0, weight=WEIGHT)
    return train_network([16], recipe, train, seed=seed, epochs=40)


def _log_probabilities(net: nn.Module, rows: Tensor) -> Tensor:
    with torch.no_grad():
        log: Tensor = net(rows).log_softmax(-1)
    return log


def _pickled_megabytes(estimator: Any) -> float:
    import pickle

    return len(pickle.dumps(estimator)) / 1e6


def _time(predict: Any, rows: Tensor) -> float:
    """The milliseconds of a row, in the best of seven batches."""
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        predict(rows)
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds) / len(rows)


def _ensemble_task(seed: int) -> str:
    return f"ensemble/seed-{seed}"


def _requires(seed: int) -> tuple[str, ...]:
    return (_ensemble_task(seed),)


def _shared(scale: ExperimentScale) -> list[WorkItem]:
    return [
        WorkItem(_ensemble_task(seed), partial(train_ensemble, seed=seed, quick=scale.quick), (), 6.0)
        for seed in scale.seeds
    ]


def _rows(scale: ExperimentScale, results: Any) -> list[Row]:
    found = [results[_ensemble_task(seed)]["accuracy"] for seed in scale.seeds]
    return [Row("the ensemble of networks: accuracy", found, "%", lower_is_better=False)]


def _why_skipped(scale: ExperimentScale) -> str:
    del scale
    return "" if is_installed("sklearn") else install_command("sklearn")


STUDY = ClaimStudy(
    "tables", "Do boosted trees gain from an ensemble of networks, and a network from a forest?", ARMS, train_arm,
    FIGURES,
    [
        Claim.of_difference("trees, ensemble", "trees", ACCURACY),
        Claim.of_difference("trees, ensemble", "trees, smoothed", ACCURACY),
        Claim.of_difference("trees, ensemble", "trees, shuffled", ACCURACY),
        Claim.of_difference("trees, ensemble", "trees", NLL),
        Claim.of_difference("network, forest", "network", ACCURACY),
        Claim.of_difference("network, forest", "network", NLL),
    ],
    {"quick": 3.0, "full": 12.0}, shared=_shared, requires=_requires, rows=_rows, skip=_why_skipped,
)  # fmt: skip
TITLE = (
    "Che, Purushotham, Khemani and Liu, Distilling Knowledge from Deep Networks with Applications to Healthcare "
    "Domain, 2015, arXiv:1512.03542"
)
CLAIM = "Boosted trees that learn the soft predictions of networks are better than boosted trees that learn labels."
EXPERIMENTS = (STUDY.experiment(),)
