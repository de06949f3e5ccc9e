"""Extra metrics: accuracy in groups, CKA of layers, sharpness, and the table of all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.compare.arms import can_write
from limbeck.compare.comparison_data import ComparisonData, eval_batches, is_judged_by_teacher
from limbeck.compare.confidence_gaps import check_faithfulness, measure_faithfulness
from limbeck.compare.corruptions import check_attacks, check_corruptions, measure_attacks, measure_corruptions
from limbeck.compare.own_texts import check_own_texts, measure_own_texts
from limbeck.compare.result import (
    MetricContext,
    arms_to_measure,
    first_device,
    load_student,
    over_seeds,
    own_preprocess,
)
from limbeck.compare.run_storage import seed_folder
from limbeck.compare.student_start import make_student
from limbeck.compare.trackers import is_rank_zero
from limbeck.data import ShuffledLoader, subsample
from limbeck.errors import DataError, LimbeckError
from limbeck.events import Callback, Message
from limbeck.job import Job
from limbeck.job.run_layout import PREDICTIONS
from limbeck.metrics import LayerCKA, Predictions, group_accuracy, layer_cka, load_tensors, sharpness
from limbeck.metrics.cka import Reading, named_layers
from limbeck.tasks import Classification

_MOST = 1000
_CLASSES = "classes"


class GroupsError(DataError):
    """An error in the option `data.groups`, not in `also`."""


def check_groups(context: MetricContext) -> str:
    """Check the groups before training, and describe them.

    Raises:
        LimbeckError: If an example has several labels, or there are too many groups.
    """
    labels = context.material.data.test.labels
    if labels is not None and labels.ndim != 1:
        raise LimbeckError("groups need examples with one label each. Leave groups out of `also`.")
    count = len(set(_groups(context.material)))
    if count > _MOST:
        raise GroupsError(
            f"data.groups: {_group_column(context.job, context.material)} has {count:,} different values in "
            f"{len(context.material.data.test):,} test examples; at most {_MOST:,} groups are allowed."
        )
    return f"groups ({count:,} {_describe_groups(_group_column(context.job, context.material))})"


def measure_groups(context: MetricContext) -> dict[str, Any]:
    """The accuracy of every arm in every group over seeds, and the group with the lowest accuracy."""
    groups = _groups(context.material)
    rows, sizes = dict[str, Any](), dict[str, int]()
    for arm in context.job.all_arms:
        accuracies = [
            {str(item.name): item.accuracy for item in group_accuracy(predictions, groups)}
            for predictions in _load_predictions(context, arm)
        ]
        accuracy = {name: over_seeds([item[name].value for item in accuracies]) for name in accuracies[0]}
        sizes = {name: accuracies[0][name].count for name in accuracy}
        name = min(accuracy, key=lambda name: (accuracy[name]["mean"], -sizes[name]))
        rows[arm] = {"worst": {"name": name, "examples": sizes[name], **accuracy[name]}, "accuracy": accuracy}
    by = _group_column(context.job, context.material)
    return {"by": by, "examples": sizes, "arms": rows, "sentence": _describe_worst_groups(rows, by, len(sizes))}


def _load_predictions(context: MetricContext, arm: str) -> list[Predictions]:
    """The saved test predictions of an arm, one per seed."""
    labels = context.material.data.test.labels
    if arm == "teacher":
        return [] if context.answers is None else [Predictions(context.answers, labels=labels)]
    folders = [seed_folder(Path(context.job.out or ""), arm, seed) for seed in range(context.job.seeds)]
    return [
        Predictions(load_tensors(folder / PREDICTIONS)["test"], labels=labels)
        for folder in folders
        if folder is not None
    ]


def _groups(material: ComparisonData) -> list[str]:
    """The group name of each test example; its class if the data have no groups."""
    if material.data.groups is None:
        names, labels = material.data.class_names, material.data.test.labels
        classes: Sequence[int] = [] if labels is None else labels.flatten().tolist()
        return [names[value] if names and 0 <= value < len(names) else str(value) for value in classes]
    columns = (batch.extra[material.data.groups] for batch in eval_batches(material.data.test))
    return [str(value) for column in columns for value in (column.tolist() if isinstance(column, Tensor) else column)]


def _group_column(job: Job, material: ComparisonData) -> str:
    if material.data.groups is None:
        return _CLASSES
    return str(job.data.get("groups")) if isinstance(job.data, dict) else material.data.groups


def _describe_worst_groups(rows: dict[str, Any], by: str, count: int) -> str:
    worst = [
        f"{arm} {row['worst']['name']} {100 * row['worst']['mean']:.1f} % (of {row['worst']['examples']:,})"
        for arm, row in rows.items()
    ]
    return f"Groups: the worst of {count:,} {_describe_groups(by)}: {', '.join(worst)}."


def _describe_groups(by: str) -> str:
    return by if by == _CLASSES else f"groups by {by}"


EXAMPLES = 1000
"""The maximum number of test examples, stratified by class."""
_BATCH = 250
_NUMBERS = 50_000_000
"""The maximum number of activations of both models per batch: 200 MB in float32."""


def check_cka(context: MetricContext, student: nn.Module) -> str:
    """Compare the layers of the untrained models on a few examples, and describe the measurement.

    Raises:
        LimbeckError: If they cannot be compared.
    """
    _ = _compare_layers(context, student, next(iter(context.models.values())), [_first_examples(context)])
    return f"cka of {min(EXAMPLES, len(context.material.data.test)):,} test examples"


def measure_cka(context: MetricContext) -> dict[str, Any]:
    """CKA of each pair of a student's and the teacher's layers, over seeds; of an ensemble, the first member's."""
    job, name, teacher = context.job, *next(iter(context.models.items()))
    teacher, examples = teacher.to(first_device(job)), subsample(context.material.data.test, EXAMPLES, 0)
    arms: dict[str, Any] = {}
    teacher_layers: tuple[str, ...] = ()
    for arm in arms_to_measure(job, context.arm):
        results = []
        for seed in range(job.seeds):
            student = load_student(job, context.material, arm, seed)
            batches = list(
                ShuffledLoader(examples, batch_size=_choose_batch_size(context, student, teacher), shuffle=False)
            )
            results.append(_compare_layers(context, student, teacher, batches))
        arms[arm], teacher_layers = _row(results), results[0].teacher_layers
    return {
        "examples": results[0].examples,
        "teacher": name if len(context.models) > 1 else None,
        "teacher_layers": list(teacher_layers),
        "arms": arms,
        "sentence": _describe_layers_alike(arms, results[0].examples, job.seeds),
    }


def mean_best_cka(values: Float[Tensor, "student teacher"]) -> float:
    """The mean over a student's layers of the CKA with the most similar teacher layer; NaN if all are NaN.

    Example:
        >>> mean_best_cka(torch.tensor([[0.5, 1.0], [0.25, torch.nan]]))
        0.625
    """
    best = torch.where(values.isnan(), -torch.inf, values).amax(1)
    return float(best[best.isfinite()].mean())


def _compare_layers(context: MetricContext, student: nn.Module, teacher: nn.Module, batches: list[Batch]) -> LayerCKA:
    preprocess = context.material.data.preprocess
    return layer_cka(
        student, teacher, batches, student_preprocess=preprocess, teacher_preprocess=_teacher_preprocess(context)
    )


def _teacher_preprocess(context: MetricContext) -> Reading:
    """The preprocessing of the teacher."""
    return own_preprocess(context.teacher) or context.material.data.preprocess


def _first_examples(context: MetricContext) -> Batch:
    test = context.material.data.test
    return test.take(torch.arange(min(8, len(test))))


def _choose_batch_size(context: MetricContext, student: nn.Module, teacher: nn.Module) -> int:
    """A batch size whose activations fit into memory."""
    first, preprocess = _first_examples(context), context.material.data.preprocess
    layers = [named_layers(student, first, preprocess), named_layers(teacher, first, _teacher_preprocess(context))]
    return min(_BATCH, max(8, _NUMBERS // sum(sum(sizes.values()) for sizes in layers)))


def _row(results: Sequence[LayerCKA]) -> dict[str, Any]:
    similarities = [mean_best_cka(result.values) for result in results]
    return {
        "student_layers": list(results[0].student_layers),
        "values": torch.stack([result.values for result in results]).nanmean(0).tolist(),
        "closest": over_seeds(similarities),
    }


def _describe_layers_alike(arms: dict[str, Any], examples: int, seeds: int) -> str:
    means = [f"{row['closest']['mean']:.2f} in {arm}" for arm, row in arms.items()]
    return (
        "Layers: the similarity (linear CKA) of a student's layer to the most similar one of the teacher is on "
        f"average {', '.join(means)}; {examples:,} test examples, {seeds} seed{'s' * (seeds > 1)}."
    )


SHARPNESS_EXAMPLES = 500
"""The maximum number of training examples for the Hessian, stratified by class."""


def check_sharpness(context: MetricContext, student: nn.Module) -> str:
    """Compute one product with the Hessian of an untrained student on a few examples, and describe the measurement.

    Raises:
        LimbeckError: If the examples have no labels, or the student has no second derivatives.
    """
    train, preprocess = context.material.train, context.material.data.preprocess
    few = train.take(torch.arange(min(8, len(train))))
    try:
        _ = sharpness(student, few, preprocess=preprocess, iterations=1, probes=2)
    except RuntimeError as error:
        raise LimbeckError(f"sharpness needs second derivatives, and this student has none: {error}") from error
    return f"sharpness of {min(SHARPNESS_EXAMPLES, len(train)):,} training examples"


def measure_sharpness(context: MetricContext) -> dict[str, Any]:
    """The largest eigenvalue and the trace of the Hessian of the training loss, of every student, over seeds."""
    job, material = context.job, context.material
    examples = subsample(material.train, min(SHARPNESS_EXAMPLES, len(material.train)), 0)
    rows: dict[str, Any] = {}
    for arm in arms_to_measure(job, context.arm):
        measured = [
            sharpness(load_student(job, material, arm, seed), examples, preprocess=material.data.preprocess)
            for seed in range(job.seeds)
        ]
        rows[arm] = {
            "top_eigenvalue": over_seeds([one.top_eigenvalue for one in measured]),
            "trace": over_seeds([one.trace for one in measured]),
        }
    tops = ", ".join(f"{row['top_eigenvalue']['mean']:.3g} in {arm}" for arm, row in rows.items())
    sentence = (
        f"Sharpness: the largest eigenvalue of the Hessian of the cross-entropy is {tops}; {len(examples):,} training "
        f"examples, {job.seeds} seed{'s' * (job.seeds > 1)}."
    )
    return {"examples": len(examples), "arms": rows, "sentence": sentence}


_log = logging.getLogger(__name__)
_METRICS: Mapping[str, Callable[[MetricContext], dict[str, Any]]] = {
    "attacks": measure_attacks,
    "cka": measure_cka,
    "corruptions": measure_corruptions,
    "faithfulness": measure_faithfulness,
    "groups": measure_groups,
    "sharpness": measure_sharpness,
    "own_texts": measure_own_texts,
}
"""The extra metrics by their name in ``also``, which is also the key in the result."""
_OF_CLASSES = ("attacks", "corruptions", "faithfulness", "groups", "sharpness")


def check_also(context: MetricContext, callback: Callback) -> None:
    """Try the job's extra metrics on untrained models, and report their cost.

    Raises:
        LimbeckError: If the data or the models do not fit a metric, or the job has no folder.
    """
    names = requested_metrics(context)
    if not names:
        return
    task, of_classes = context.material.task, [name for name in names if name in _OF_CLASSES]
    if of_classes and not isinstance(task, Classification):
        raise LimbeckError(
            f"also: {', '.join(of_classes)} is about classes, and this is {task.name}; leave it out (and data.groups)."
        )
    if context.job.out is None:
        raise LimbeckError(f"also: {', '.join(names)} needs the saved students; give the job a folder: out=...")
    try:
        descriptions = [_check(name, context) for name in names]
    except GroupsError:
        raise
    except LimbeckError as error:
        raise LimbeckError(f"also: {error}") from error
    callback(Message(f"Extra metrics at the end: {'; '.join(descriptions)}."))


def measure_extra(context: MetricContext, callback: Callback) -> dict[str, Any]:
    """Measure the job's extra metrics; the result of one that fails is a sentence.

    All arms are trained at this point, so no error here may lose the result.

    """
    names = requested_metrics(context) if is_rank_zero(context.job) else ()
    results: dict[str, Any] = {}
    for name in names:
        callback(Message(f"Measuring {name}."))
        try:
            results[name] = _METRICS[name](context)
        except LimbeckError as error:  # such as a student's folder that was removed meanwhile
            results[name] = {"sentence": f"Not measured: {name}. {error}"}
        except Exception as error:  # a full device, or a bug
            _log.debug("Measuring %s failed.", name, exc_info=error)
            reason = str(error).strip().partition("\n")[0]
            sentence = f"Failed: {name}. {type(error).__name__}: {reason}. --debug shows the traceback."
            results[name] = {"sentence": sentence}
            callback(Message(sentence))
    return results


def requested_metrics(context: MetricContext) -> tuple[str, ...]:
    """The names in a job's `also`; groups if the data have groups; own texts where a teacher is all that can judge."""
    names, material = context.job.also, context.material
    if material.data.groups is not None and "groups" not in names:
        names = (*names, "groups")
    return (*names, "own_texts") if is_judged_by_teacher(material.task) and can_write(context.teacher) else names


def _check(name: str, context: MetricContext) -> str:
    """Check that a metric can be measured, and describe it."""
    if name == "own_texts":
        return check_own_texts(context)
    if name == "groups":
        return check_groups(context)
    student = make_student(context.job, context.material, seed=0, teacher=context.teacher)
    checks = {
        "attacks": check_attacks, "cka": check_cka, "corruptions": check_corruptions,
        "faithfulness": check_faithfulness, "sharpness": check_sharpness,
    }  # fmt: skip
    return checks[name](context, student)
