"""Beyer et al., 2021, arXiv:2106.05237: the views of the teacher, and the length of the student's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs
from limbeck.data import (
    Chain,
    Crop,
    Dataset,
    DataSplits,
    Flip,
    Mixup,
    NormalizeImages,
    ShuffledLoader,
    Transform,
    load_data,
    subsample,
)
from limbeck.engine import distill
from limbeck.errors import DataError
from limbeck.methods import make
from limbeck.metrics import predict
from limbeck.models import Cnn, seeded
from limbeck.papers.claim import Claim, ClaimResult, Figure, judge_claims
from limbeck.papers.experiment import (
    Experiment,
    ExperimentScale,
    Figures,
    Row,
    TaskFolder,
    fewer,
    load_weights,
    renumbered,
    save_weights,
)
from limbeck.recipe import Optimizer, Recipe
from limbeck.task_runner import WorkItem
from limbeck.teachers import ModelTeacher, Preprocess

BATCH = 64
PIXELS = NormalizeImages((0.286,), (0.353,))
"""Mean and standard deviation of the training images of Fashion-MNIST."""
WAYS = ("fixed targets", "independent noise", "consistent", "function matching")
"""The ways to compute the teacher's inputs, in the order of the paper."""


def views(seed: int) -> Transform:
    """Crops of images with a border of four pixels, flipped with probability one half."""
    return Chain(Crop(padding=4, seed=seed), Flip(seed=seed))


def stream(examples: Dataset, way: str, seed: int) -> ShuffledLoader:
    """Make the views of the student: crops, and for function matching mixtures of them."""
    mix = Mixup(alpha=1.0, seed=seed) if way == "function matching" else None
    return ShuffledLoader(examples, batch_size=BATCH, seed=seed, augment=views(seed), mix=mix)


def teacher_preprocess(examples: Dataset, way: str, seed: int) -> Preprocess:
    """Make the preprocessing of the teacher."""
    if way == "fixed targets":
        return Original(examples)
    if way == "independent noise":
        return Another(examples, views(seed + 1000))
    return PIXELS


@dataclass(frozen=True)
class Original:
    """Preprocessing that takes the original example instead of the student's view.

    Attributes:
        examples: The dataset; ids are indices.
    """

    examples: Dataset

    def __call__(self, batch: Batch) -> Inputs:
        """Take the examples of the batch."""
        return PIXELS(batch._replace(inputs=self.examples.take(_ids_and_views(batch)[0]).inputs))


@dataclass(frozen=True)
class Another:
    """Preprocessing that makes a view different from the student's.

    Attributes:
        examples: The dataset; ids are indices.
        views: The transform.
    """

    examples: Dataset
    views: Transform

    def __call__(self, batch: Batch) -> Inputs:
        """Make views of the examples of the batch, with the same view numbers."""
        id, view = _ids_and_views(batch)
        return PIXELS(batch._replace(inputs=self.views(self.examples.take(id).inputs, id, view)))


def _ids_and_views(batch: Batch) -> tuple[Tensor, Tensor]:
    if batch.id is None or batch.view is None:
        raise DataError("A batch of views needs ids and view numbers; this batch has none.")
    return batch.id.cpu(), batch.view.cpu()


TRANSFER = 1000
"""The number of training images of the students, as few as the paper's flowers. The teacher is trained on all
images."""
_QUICK = (4000, 500, 1000)
_TEACHER_EPOCHS = 20
LENGTHS = {"short": 30, "long": 300}
"""Epochs."""
_PER_SECOND = 1800
_OPTIMIZER = Optimizer(name="adamw", lr=2e-3, warmup=0.05, options={"weight_decay": 1e-4})


@cache
def fashion(quick: bool) -> DataSplits:
    """Load Fashion-MNIST; at quick scale a few thousand images of it."""
    whole = load_data("fashion_mnist")
    return fewer(whole, train=_QUICK[0], test=_QUICK[2]) if quick else whole


def transfer(quick: bool) -> Dataset:
    """Select the training images of the students."""
    return renumbered(subsample(fashion(quick).train, _QUICK[1] if quick else TRANSFER, seed=1))


def network(widths: Sequence[int], seed: int) -> nn.Module:
    """Make a plain convolutional network in channels-last format, which is faster for bfloat16 on a CPU."""
    with seeded(seed):
        net: Any = Cnn(channels=1, classes=10, widths=list(widths), size=28)
    laid_out: nn.Module = net.to(memory_format=torch.channels_last)
    return laid_out


def _teacher() -> nn.Module:
    return network([32, 64, 128], 0)


def teach(desk: TaskFolder, *, quick: bool) -> Figures:
    """Train the teacher on crops of all training images."""
    net = _teacher()
    loader = stream(fashion(quick).train, "consistent", 0)
    _run(desk, net, make("supervised"), loader, seed=0, epochs=2 if quick else _TEACHER_EPOCHS)
    save_weights(net, desk)
    return {"accuracy": _accuracy(_test_logits(net, quick), quick)}


def study(desk: TaskFolder, *, way: str, seed: int, epochs: int, quick: bool) -> Figures:
    """Train one student in one of the ways, without labels."""
    teacher = load_weights(_teacher(), desk, "matching/teacher")
    student, examples = network([16, 32, 64], seed), transfer(quick)
    taught_by = ModelTeacher(teacher, preprocess=teacher_preprocess(examples, way, seed))
    recipe = make("function_matching", teacher=taught_by)
    _run(desk, student, recipe, stream(examples, way, seed), seed=seed, epochs=epochs)
    student_logits, teacher_logits = _test_logits(student, quick), _test_logits(teacher, quick)
    divergence = torch.nn.functional.kl_div(
        student_logits.log_softmax(-1), teacher_logits.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    return {"accuracy": _accuracy(student_logits, quick), "kl": float(divergence)}


def _run(desk: TaskFolder, net: nn.Module, recipe: Recipe, loader: ShuffledLoader, *, seed: int, epochs: int) -> None:
    distill(
        net, recipe, loader, out=desk.folder / "run", resume=True, seed=seed, epochs=epochs, optimizer=_OPTIMIZER,
        preprocess=PIXELS, precision="bf16-mixed", accelerator="cpu", log_every=100, checkpoint_seconds=60.0, workers=1,
    ).finish()  # fmt: skip


def _test_logits(net: nn.Module, quick: bool) -> Tensor:
    return predict(net, ShuffledLoader(fashion(quick).test, batch_size=500, shuffle=False), preprocess=PIXELS).student


def _accuracy(logits: Tensor, quick: bool) -> float:
    labels = torch.as_tensor(fashion(quick).test.labels)
    return 100 * float((logits.argmax(-1) == labels).double().mean())


def _name(way: str, length: str, seed: int) -> str:
    return f"matching/{way.replace(' ', '-')}/{length}/seed-{seed}"


def _epochs(scale: ExperimentScale, length: str) -> int:
    return scale.pick(LENGTHS[length] // 10, LENGTHS[length])


def _tasks(scale: ExperimentScale) -> list[WorkItem]:
    quick, size = scale.quick, scale.pick(_QUICK[1], TRANSFER)
    seconds = scale.pick(2 * _QUICK[0], _TEACHER_EPOCHS * 60_000) / 2000
    tasks = [WorkItem("matching/teacher", partial(teach, quick=quick), (), seconds)]
    for seed in scale.seeds:
        for way in WAYS:
            for length in LENGTHS:
                epochs = _epochs(scale, length)
                work = partial(study, way=way, seed=seed, epochs=epochs, quick=quick)
                tasks.append(
                    WorkItem(_name(way, length, seed), work, ("matching/teacher",), 2 + epochs * size / _PER_SECOND)
                )
    return tasks


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    rows = [Row("the teacher, test accuracy", [results["matching/teacher"]["accuracy"]], "%", lower_is_better=False)]
    for length in LENGTHS:
        for way in WAYS:
            figures = [results[_name(way, length, seed)] for seed in scale.seeds]
            name = f"{way}, {_epochs(scale, length)} epochs"
            rows.append(Row(name, [run["accuracy"] for run in figures], "%", lower_is_better=False))
            rows.append(Row("  KL from the teacher on test images", [run["kl"] for run in figures], "nats"))
    return [*rows, *_order(scale, results)]


def _judge(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[ClaimResult]:
    """The claims about long training: function matching is ahead of each other way."""

    def column(way: str, key: str) -> list[float]:
        return [results[_name(way, "long", seed)][key] for seed in scale.seeds]

    figure = Figure("accuracy", "accuracy after long training", "%", resolution=0.01)
    return judge_claims([Claim.of_difference(WAYS[-1], way, figure) for way in WAYS[:-1]], column)


def _order(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    """Compare function matching with each other way in long training, as in the paper's figure."""
    best = [results[_name(WAYS[-1], "long", seed)]["accuracy"] for seed in scale.seeds]
    rows = []
    for way in WAYS[:-1]:
        others = [results[_name(way, "long", seed)]["accuracy"] for seed in scale.seeds]
        ahead = [a - b for a, b in zip(best, others, strict=True)]
        name = f"function matching over {way}, when trained for long"
        rows.append(Row(name, ahead, "points", lower_is_better=False, aim=0.01, note="paper: ahead"))
    return rows


MATCHING = Experiment(
    "matching", "Which way of asking a teacher is best, and does it depend on patience?", _tasks, _rows, claims=_judge
)
TITLE = (
    "Beyer, Zhai, Royer, Markeeva, Anil and Kolesnikov, Knowledge distillation: A good teacher is patient and "
    "consistent, 2021, arXiv:2106.05237"
)
CLAIM = (
    "With long training, a student does best if it sees the same views and mixtures as its teacher (function matching)."
)
SEEDS = {"quick": 1, "full": 3}
EXPERIMENTS = (MATCHING,)
