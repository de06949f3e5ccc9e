"""Specialists on CIFAR-100, compared with controls of equal cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.batch import LOGITS
from limbeck.data import Chain, Dataset, DataSplits, Flip, RandomShift, ShuffledLoader, load_data
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.methods.teachers.groups import confusion_groups
from limbeck.methods.teachers.specialist_training import combined, training
from limbeck.metrics import predict
from limbeck.models import Cnn, seeded
from limbeck.papers.experiment import (
    Experiment,
    ExperimentScale,
    Figures,
    Row,
    TaskFolder,
    fewer,
    load_weights,
    save_weights,
)
from limbeck.recipe import Optimizer, Recipe
from limbeck.task_runner import WorkItem
from limbeck.teachers import Groups, ModelTeacher, Specialists, TeacherContext, special_classes

CLASSES = 100
BATCH = 64
QUICK = (3000, 1000)
"""The number of training and test examples at quick scale."""
_MOMENTUM = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
GENERALIST = Optimizer(name="sgd", lr=0.05, warmup=0.05, options=_MOMENTUM)
FURTHER = Optimizer(name="sgd", lr=0.05, options=_MOMENTUM)
"""The optimizer for training that starts from trained weights: specialists, and the control."""


@cache
def pictures(quick: bool) -> DataSplits:
    """Load CIFAR-100, or a part of it; at quick scale a few thousand images."""
    whole = load_data("cifar100")
    return fewer(whole, train=QUICK[0], test=QUICK[1]) if quick else whole


def network(seed: int) -> nn.Module:
    """Make a small network of three convolutions, in channels-last format for bfloat16 on a CPU."""
    with seeded(seed):
        net: Any = Cnn(channels=3, classes=CLASSES, widths=[16, 32, 64], size=32)
    laid_out: nn.Module = net.to(memory_format=torch.channels_last)
    return laid_out


def make_loader(examples: Dataset, seed: int) -> ShuffledLoader:
    """Shifts by up to four pixels, and flips with probability one half."""
    view = Chain(RandomShift(4, seed=seed), Flip(seed=seed))
    return ShuffledLoader(examples, batch_size=BATCH, seed=seed, augment=view)


SPECIALISTS = 10
SIZE = 20
_ACTIVE = 2
"""The number of the generalist's top classes that select specialists. The paper uses one; two were better on
development data."""
_EPOCHS, _OWN_EPOCHS = 40, 8
_QUICK_EPOCHS = 2
_EXAMPLES = 16_000
_PER_SECOND = 4000
"""Training examples per second and thread, on the reference machine of `limbeck.papers.task_queue.machine_slowness`."""
_SHOWN = "shown.safetensors"


# --- tasks ----------------------------------------------------------------------------------------------------------


def train_generalist(desk: TaskFolder, *, seed: int, examples: int, quick: bool) -> Figures:
    """Train a network from random weights on this number of examples."""
    return _taught(desk, network(seed), examples, pictures(quick), GENERALIST, seed=seed)


def train_on(desk: TaskFolder, *, seed: int, examples: int, quick: bool) -> Figures:
    """Train the control: the generalist on as many more examples as all specialists together, reordered."""
    net = load_weights(network(seed), desk, _name("generalist", seed))
    return _taught(desk, net, examples, pictures(quick), FURTHER, seed=seed + 1)


def _taught(
    desk: TaskFolder, net: nn.Module, examples: int, data: DataSplits, optimizer: Optimizer, *, seed: int
) -> Figures:
    stream, steps = make_loader(data.train, seed), examples // BATCH
    _run(desk, {"student": net}, make("supervised"), stream, data, seed=seed, optimizer=optimizer, steps=steps)
    return _save_model(desk, net, data)


def train_specialists(desk: TaskFolder, *, seed: int, epochs: int, quick: bool) -> Figures:
    """Train a specialist for each group of confused classes, and pool all models."""
    data, net = pictures(quick), load_weights(network(seed), desk, _name("generalist", seed))
    generalist, stream = ModelTeacher(net), make_loader(data.train, seed)
    unseen = ShuffledLoader(data.train, batch_size=500, shuffle=False)
    groups = confusion_groups(
        generalist, unseen, clusters=SPECIALISTS, size=SIZE, preprocess=data.preprocess, seed=seed
    )
    recipe = training(generalist, groups, stream, epochs=epochs)
    models = _run(desk, {"generalist": net}, recipe, stream, data, seed=seed, optimizer=FURTHER)
    together = combined(generalist, groups, stream, active=_ACTIVE).resolve(models)
    return _measure(together, groups, data)


def _run(
    desk: TaskFolder,
    models: dict[str, nn.Module],
    recipe: Recipe,
    stream: ShuffledLoader,
    data: DataSplits,
    **setting: Any,
) -> Any:
    run = distill(
        models, recipe, stream, out=desk.folder / "run", resume=True, preprocess=data.preprocess,
        precision="bf16-mixed",
        accelerator="cpu", log_every=50, checkpoint_seconds=60.0, workers=1, **setting,
    )  # fmt: skip
    return run.finish().models


def _save_model(desk: TaskFolder, net: nn.Module, data: DataSplits) -> Figures:
    logits = predict(net, _whole(data.test), preprocess=data.preprocess).student
    save_weights(net, desk)
    save_file({"test": logits}, desk.folder / _SHOWN)
    return {"accuracy": _accuracy(logits, _labels(data))}


def compare(desk: TaskFolder, *, seed: int, quick: bool) -> Figures:
    """Evaluate the ensemble of equal cost: the generalist, and another network with the budget of the specialists."""
    labels = _labels(pictures(quick))
    names = [_name(kind, seed) for kind in ("generalist", "another")]
    both = [torch.softmax(load_file(desk.of(name) / _SHOWN)["test"], -1) for name in names]
    return {"accuracy": _accuracy(both[0] + both[1], labels)}


# --- metrics -----------------------------------------------------------------------------------------------


def _measure(together: Specialists, groups: Groups, data: DataSplits) -> Figures:
    labels = _labels(data)
    alone, alone_ms = _time_logits(together.generalist, data)
    pooled, pooled_ms = _time_logits(together, data)
    special = special_classes(groups, CLASSES)
    return {
        "accuracy": _accuracy(pooled, labels),
        "generalist": _accuracy(alone, labels),
        "conditional": _conditional(pooled, labels, special),
        "conditional_generalist": _conditional(alone, labels, special),
        "cover": _by_cover(alone, pooled, labels, special.sum(0)),
        "milliseconds": pooled_ms,
        "milliseconds_generalist": alone_ms,
        "groups": [list(group) for group in groups],
    }


def _time_logits(teacher: Any, data: DataSplits) -> tuple[Tensor, float]:
    """Compute the logits of the test part, and the milliseconds per example."""
    with teacher.open(TeacherContext(preprocess=data.preprocess)) as answer:
        began = time.perf_counter()
        logits = torch.cat([answer(batch)[LOGITS].float() for batch in _whole(data.test)])
        return logits, 1000 * (time.perf_counter() - began) / len(logits)


def _conditional(logits: Tensor, labels: Tensor, special: Tensor) -> float:
    """Compute the accuracy among the classes of a specialist, over all specialists and examples of their classes."""
    right = count = 0
    for own in special:
        rows = own[labels]
        best = logits[rows].masked_fill(~own, -torch.inf).argmax(-1)
        right, count = right + int((best == labels[rows]).sum()), count + int(rows.sum())
    return 100 * right / count


def _by_cover(alone: Tensor, pooled: Tensor, labels: Tensor, cover: Tensor) -> dict[str, list[int]]:
    """Count, by the number of specialists for the class: examples, right before, right after."""
    counts = cover[labels]
    before, after = alone.argmax(-1) == labels, pooled.argmax(-1) == labels
    return {
        str(n): [int((counts == n).sum()), int(before[counts == n].sum()), int(after[counts == n].sum())]
        for n in counts.unique().tolist()
    }


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return 100 * float((logits.argmax(-1) == labels).double().mean())


def _labels(data: DataSplits) -> Tensor:
    labels: Any = data.test.labels
    return torch.as_tensor(labels)


def _whole(examples: Dataset) -> ShuffledLoader:
    return ShuffledLoader(examples, batch_size=500, shuffle=False)


# --- the experiment -------------------------------------------------------------------------------------------------


def _name(kind: str, seed: int) -> str:
    return f"specialists/{kind}/seed-{seed}"


def _tasks(scale: ExperimentScale) -> list[WorkItem]:
    quick = scale.quick
    examples = scale.pick(_QUICK_EPOCHS * QUICK[0], _EPOCHS * _EXAMPLES)
    epochs = scale.pick(1, _OWN_EPOCHS)
    # Half of a specialist's examples are of its own classes.
    further = SPECIALISTS * epochs * 2 * scale.pick(QUICK[0], _EXAMPLES) * SIZE // CLASSES
    at: dict[str, Any] = {"quick": quick}
    tasks = []
    for seed in scale.seeds:
        first, other, after = _name("generalist", seed), _name("another", seed), further / _PER_SECOND
        begin = partial(train_generalist, seed=seed, examples=examples, **at)
        equal = partial(train_generalist, seed=seed + 100, examples=further, **at)
        tasks += [
            WorkItem(first, begin, (), examples / _PER_SECOND),
            WorkItem(other, equal, (), after),
            WorkItem(
                _name("pooled", seed), partial(train_specialists, seed=seed, epochs=epochs, **at), (first,), after
            ),
            WorkItem(_name("trained-on", seed), partial(train_on, seed=seed, examples=further, **at), (first,), after),
            WorkItem(_name("ensemble", seed), partial(compare, seed=seed, **at), (first, other), 1.0),
        ]
    return tasks


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    pooled = [results[_name("pooled", seed)] for seed in scale.seeds]
    before = [run["generalist"] for run in pooled]
    after = [run["accuracy"] for run in pooled]
    controls = {
        "the generalist, trained on for as many examples": [
            results[_name("trained-on", s)]["accuracy"] for s in scale.seeds
        ],
        "a plain ensemble of equal cost": [results[_name("ensemble", s)]["accuracy"] for s in scale.seeds],
    }
    best = max(controls.values(), key=sum)
    up: dict[str, Any] = {"unit": "%", "lower_is_better": False}
    return [
        Row("the generalist, test accuracy", before, **up),
        Row(f"+ {SPECIALISTS} specialists of {SIZE} classes", after, **up),
        *(Row(name, values, **up) for name, values in controls.items()),
        Row("the generalist, conditional accuracy", [run["conditional_generalist"] for run in pooled], **up),
        Row(f"+ {SPECIALISTS} specialists, conditional", [run["conditional"] for run in pooled], **up),
        Row(
            "gain over the generalist, relative", _relative(after, before), aim=4, **up, note="the paper, on JFT: 4.4 %"
        ),
        Row("gain over the better control, relative", _relative(after, best), aim=4, **up),
        *_cover_rows(pooled),
        Row("time of the generalist", [run["milliseconds_generalist"] for run in pooled], "ms per example"),
        Row("time of all together", [run["milliseconds"] for run in pooled], "ms per example"),
    ]


def _relative(after: Sequence[float], before: Sequence[float]) -> list[float]:
    return [100 * (a - b) / b for a, b in zip(after, before, strict=True)]


def _cover_rows(pooled: Sequence[Figures]) -> list[Row]:
    """Make the paper's table by the number of specialists: 0, 1, 2, 3 and more, with seeds pooled."""
    rows = []
    for low, high in ((0, 0), (1, 1), (2, 2), (3, SPECIALISTS)):
        sums = [_summed(item["cover"], low, high) for item in pooled]
        sums = [item for item in sums if item[1]]
        if sums:
            name = f"{low}" if low == high else f"{low} or more"
            gains = [100 * (after - before) / before for _, before, after in sums]
            examples = sum(count for count, _, _ in sums) // len(sums)
            label = f"  relative gain where {name} know the right class"
            rows.append(Row(label, gains, "%", lower_is_better=False, note=f"{examples} test examples"))
    return rows


def _summed(cover: Mapping[str, Sequence[int]], low: int, high: int) -> tuple[int, int, int]:
    chosen = [values for images, values in cover.items() if low <= int(images) <= high]
    count, before, after = (sum(values[i] for values in chosen) for i in range(3))
    return count, before, after


CONFUSIONS = Experiment(
    "specialists",
    "Do specialists for what a generalist confuses beat it, and controls of the same cost?",
    _tasks,
    _rows,
)
