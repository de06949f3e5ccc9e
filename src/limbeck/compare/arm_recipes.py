"""Recipes of the arms, and the label smoothing that matches the teacher's outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.compare.comparison_data import ComparisonData, eval_batches
from limbeck.compare.teacher import iterate_answers
from limbeck.data import AdaptiveShare, Dataset, Rollouts, subsample
from limbeck.errors import LimbeckError
from limbeck.job import LIKE_FIRST_METHOD, ROUNDED, Job, add_flag_hint
from limbeck.methods import make, method
from limbeck.methods.logits.qad import quantize_recipe
from limbeck.recipe import Recipe, Stage, change_stages
from limbeck.tasks import Task, get_task
from limbeck.teachers import ShuffledTeacher, Teacher

ALONE, SMOOTHED, SHUFFLED = "student alone", "label smoothing", "shuffled teacher"
TEXTS = "teacher texts"
"""The control that learns the texts that the teacher wrote for prompts without answers: sequence-level KD."""


def is_taught(job: Job, arm: str) -> bool:
    """Whether an arm learns with a method; the other arms learn from labels."""
    return arm in job.method_arms or arm in LIKE_FIRST_METHOD


def recipe_of(
    job: Job,
    arm: str,
    teacher: Teacher,
    *,
    task: str | Task = "classification",
    smoothing: float = 0.1,
    development: Dataset | None = None,
    largest_pixel: float | None = None,
) -> Recipe:
    """The recipe of an arm. A control has no teacher, or a shuffled one. The student is rounded if the job says so.

    Args:
        job: The job.
        arm: The name of the arm.
        teacher: The teacher.
        task: What is learned.
        smoothing: The smoothing of the arm "label smoothing".
        development: The development data, which an adaptive share of written texts follows; needed to train.
        largest_pixel: The largest value of the inputs, for methods that attack them, as `find_largest_pixel` finds it.
    """
    recipe = _plain_recipe(job, arm, teacher, task, smoothing, development, largest_pixel)
    rounding = job.student.quantize
    if rounding is None:
        return recipe
    budget = job.budget_of(arm)
    optimizer = budget.make_optimizer()
    taught = is_taught(job, arm) and rounding.teacher == "teacher"
    return quantize_recipe(
        recipe, task=task, weights=rounding.weights, activations=rounding.activations,
        per_channel=rounding.per_channel, temperature=rounding.temperature, epochs=rounding.epochs or budget.epochs,
        teacher=teacher if taught else None, learn=arm != ROUNDED,
        optimizer=replace(optimizer, lr=rounding.lr or optimizer.lr / 10),
    )  # fmt: skip


def _plain_recipe(
    job: Job, arm: str, teacher: Teacher, task: str | Task, smoothing: float, development: Dataset | None,
    largest_pixel: float | None,
) -> Recipe:  # fmt: skip
    """The recipe of an arm in full precision."""
    if arm in (ALONE, TEXTS):
        return make("supervised", task=task)
    if arm == SMOOTHED:
        return make("label_smoothing", smoothing=smoothing, task=task)
    settings = job.method_arms.get(arm, job.method)
    own_method = method(settings.name)
    arguments: dict[str, Any] = {"teacher": teacher} if own_method.has_teacher else {}
    if "task" in own_method.parameters:
        arguments["task"] = task
    if "temperature" in own_method.parameters and (own := get_task(task).temperature) is not None:
        arguments["temperature"] = own
    if "high" in own_method.parameters and largest_pixel is not None:
        arguments["high"] = largest_pixel
    try:
        recipe = make(settings.name, **{**arguments, **settings.hyper})
    except LimbeckError as error:
        raise add_flag_hint(error, job.key_of(settings), own_method.hyper_parameters) from error
    if development is not None:
        recipe = change_stages(recipe, partial(_with_validation, development))
    # The method gets the real teacher, because it may need its layers or shapes; only the stages get the shuffled one.
    return change_stages(recipe, _with_shuffled_teacher) if arm == SHUFFLED else recipe


def _with_validation(development: Dataset, stage: Stage) -> Stage:
    """The stage; an adaptive share of its written texts follows the loss on these data."""
    rollouts = stage.loader
    if not isinstance(rollouts, Rollouts) or not isinstance(rollouts.share, AdaptiveShare):
        return stage
    return replace(stage, loader=replace(rollouts, share=rollouts.share.with_validation(development)))


def _with_shuffled_teacher(stage: Stage) -> Stage:
    return stage if stage.teacher is None else replace(stage, teacher=ShuffledTeacher(stage.teacher))


_ASKED = 2000
"""Number of examples for the mean entropy of the teacher's outputs."""


def matched_smoothing(
    job: Job, teacher: Teacher, material: ComparisonData, *, entropy: Callable[[int], float] | None = None
) -> float:
    """The label smoothing of the control: the job's, or the one with the mean entropy of the teacher's outputs.

    The entropy is measured on training examples of the arms.

    Args:
        job: The job.
        teacher: The teacher.
        material: The data.
        entropy: Measures the mean entropy of a teacher whose logits are not all known, on a number of examples.
    """
    if SMOOTHED not in job.arms:
        return 0.0
    own = job.budgets.get(SMOOTHED)
    if own is not None and own.smoothing is not None:
        return own.smoothing
    if entropy is not None and teacher.capabilities.partial:
        return smoothing_of(entropy(_ASKED), material.classes)
    some = subsample(material.train, min(_ASKED, len(material.train)), seed=0)
    if material.task.asks_teacher:  # the outputs for one position are too large to keep
        batches = eval_batches(some)
        measures = material.task.evaluate(teacher, batches, preprocess=material.data.preprocess).measures
        return smoothing_of(measures["entropy"], material.classes)
    entropies = [
        (mean_entropy(logits.movedim(material.task.classes_dim, -1)), len(logits))
        for _, logits in iterate_answers(teacher, some, material)
    ]
    mean = sum(entropy * count for entropy, count in entropies) / sum(count for _, count in entropies)
    return smoothing_of(mean, material.classes)


def mean_entropy(logits: Float[Tensor, "*rows classes"]) -> float:
    """The mean entropy of the outputs, in nats, at temperature 1.

    Example:
        >>> round(mean_entropy(torch.zeros(3, 2)), 4)
        0.6931
    """
    return float(torch.special.entr(logits.double().softmax(-1)).sum(-1).mean())


def smoothing_of(entropy: float, classes: int) -> float:
    r"""The s at which a smoothed label, :math:`(1 - s) 1[c = y] + s / C`, has this entropy.

    Such labels regularize a student as much as the teacher's outputs do, but carry no information from the teacher.

    Args:
        entropy: Entropy in nats; s is 0 at entropy 0, and 1 at log C and above.
        classes: The number of classes C, at least 2.

    Example:
        >>> round(smoothing_of(0.5, 10), 4)
        0.0999
    """
    from scipy.optimize import brentq

    def excess(share: float) -> float:
        rest = share / classes
        top = 1.0 - share + rest
        return -(top * math.log(top) + (classes - 1) * rest * math.log(rest)) - entropy

    if entropy >= math.log(classes):
        return 1.0
    least = 1e-12  # log(0) is not finite
    return 0.0 if excess(least) >= 0 else float(brentq(excess, least, 1.0, xtol=1e-10))
