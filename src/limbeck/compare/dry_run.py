"""Checks before training: first steps of all arms, image files, evaluation data that a teacher may have seen."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from limbeck.compare.adversarial_teacher import find_largest_pixel, make_attacks
from limbeck.compare.arm_recipes import SHUFFLED, is_taught, recipe_of
from limbeck.compare.arms import custom_metrics
from limbeck.compare.comparison_data import ComparisonData, eval_batches, make_train_config
from limbeck.compare.costs import Structure, structure_of
from limbeck.compare.estimator import EstimatorModule, is_estimator
from limbeck.compare.estimator_student import few_rows, fit_student
from limbeck.compare.language import has_no_answers, is_untrained
from limbeck.compare.student_start import check_student, make_student
from limbeck.compare.teacher import ask, teachers_recipe, without_weights
from limbeck.compare.teacher_cache import with_temporary_cache
from limbeck.data import Dataset, Subset, counter_order, verify
from limbeck.doctor import Finding, fail, passed, warn
from limbeck.engine import Run, open_fabric
from limbeck.errors import DataError, DivergedError, LastBatchError, LimbeckError, LimbeckWarning, is_out_of_memory
from limbeck.events import Callback, ImagesDecoded, Message
from limbeck.job import Budget, Job, train_loader
from limbeck.metrics import cost_in_full
from limbeck.models import seeded
from limbeck.recipe import Recipe
from limbeck.teachers import ShuffledTeacher, Teacher

_FEW = 8
FEW_STEPS = 500
"""With fewer optimizer steps, the default learning rate leaves most students near chance."""


def dry_run(job: Job, material: ComparisonData, teacher: Teacher, models: Mapping[str, nn.Module]) -> None:
    """Run the first steps of the teacher's training and of every stage of every arm, on copies.

    One step is taken on a first batch, and one on as many examples as the last batch of an epoch holds; then the
    student is evaluated on a few test examples and timed. So a mistake in a job (a name, a hyper-parameter, an address,
    a shape, a precision, a batch size) is found here and not after the teacher's training.

    Raises:
        LimbeckError: If the teacher or an arm cannot run.
    """
    check_student(job, material, teacher)
    _check_metrics(job, material)
    rehearse_arms(job, material, rehearse_teacher(job, material, teacher, models))


def describe_steps(job: Job, material: ComparisonData, teacher: Teacher) -> str | None:
    """A note on how the student learns: an estimator by one fit, a network by too few steps; None for enough steps."""
    student = make_student(job, material, seed=0, teacher=teacher)
    if isinstance(student, EstimatorModule):
        return f"Student: the estimator {job.student.model}, which is fitted to all training data at once."
    return describe_few_steps(job, material)


def describe_few_steps(job: Job, material: ComparisonData) -> str | None:
    """A note for a job with too few optimizer steps for a student to learn; None for enough steps."""
    per_epoch = math.ceil(len(train_loader(material.train, job.budget, seed=0)) / job.budget.accumulate)
    steps = per_epoch * job.budget.epochs
    if steps >= FEW_STEPS:
        return None
    epochs = enough_epochs(job.budget.epochs, steps)
    return (
        f"Note: with {len(material.train):,} training examples, batches of {job.budget.batch_size} and "
        f"{job.budget.epochs} epochs each arm takes only {steps:,} optimizer steps. If the students do not learn, type "
        f"--set budget.epochs={epochs}, or make the batches smaller."
    )


def enough_epochs(epochs: int, steps: int) -> int:
    """The number of epochs with at least `FEW_STEPS` steps, if `epochs` have `steps`.

    Example:
        >>> enough_epochs(20, 40)
        250
    """
    return math.ceil(FEW_STEPS * epochs / steps)


def rehearse_arms(job: Job, material: ComparisonData, teacher: Teacher) -> None:
    """The part of `dry_run` for the arms.

    Raises:
        LimbeckError: If an arm cannot run.
    """
    timed: set[Structure] = set()
    for arm in job.all_arms:
        if arm != "teacher" and not is_untrained(job, arm):
            _rehearse_arm(job, arm, material, teacher, timed)


def rehearse_teacher(job: Job, material: ComparisonData, teacher: Teacher, models: Mapping[str, nn.Module]) -> Teacher:
    """Run the first steps of the teacher's training on a copy, and return the copy.

    Returns:
        The copy; the teacher itself, if it comes with weights.

    Raises:
        LimbeckError: If the teacher cannot be trained.
    """
    first = next((name for name, one in without_weights(job, models).items() if not is_estimator({name: one})), None)
    if first is None:
        return teacher
    teacher, models = copy.deepcopy((teacher, dict(models)))
    budget = job.teacher_budgets[first]
    own = first in job.teacher.ensemble and job.teacher.ensemble[first].train is not None
    shared = "budget" if job.teacher.train is None else "teacher.train"
    place = f"{job.teacher.place}.{first}.train" if own else shared
    with seeded(0), _explain_errors("The teacher cannot take its first steps", place):
        recipe = teachers_recipe((first,), material.task, make_attacks(job, material, (first,)))
        _run_first_steps({first: models[first]}, recipe, job, budget, material)
        ask(teacher, material.data.test.select(torch.arange(min(_FEW, len(material.data.test)))), material)
    return teacher


def _rehearse_arm(job: Job, arm: str, material: ComparisonData, teacher: Teacher, timed: set[Structure]) -> None:
    # The weights that a lazy layer draws at its first call must not depend on earlier random numbers.
    with (
        seeded(0),
        _explain_errors(f"The arm {arm!r} cannot take its first steps", "budget"),
        with_temporary_cache(job, teacher, material.task) as cached_teacher,
    ):
        student = make_student(job.of_arm(arm), material, seed=0, teacher=teacher)
        if job.of_arm(arm) is not job and not isinstance(student, EstimatorModule):
            raise LimbeckError(
                f"budgets.{arm}.student has arguments of an estimator, and the student {job.student.model} is a "
                "network, which is the same in all arms. Leave them out."
            )
        if isinstance(student, EstimatorModule):
            fit_student(job, arm, student, few_rows(material), teacher, seed=0, smoothing=0.1)
            return
        models = {"student": student}
        recipe = recipe_of(
            job, arm, cached_teacher, task=material.task, development=material.development,
            largest_pixel=find_largest_pixel(material),
        )  # fmt: skip
        mixed = is_taught(job, arm)
        run = _run_first_steps(models, recipe, job, job.budget_of(arm), material, mixed=mixed)
    if arm == SHUFFLED and not any(isinstance(stage.teacher, ShuffledTeacher) for stage in run.stages):
        raise LimbeckError(
            f"No stage of {job.method_arms.get(arm, job.method).name} uses the teacher, so there are no outputs "
            f"to shuffle. Leave that arm out: --set arms=[{','.join(a for a in job.arms if a != SHUFFLED)}]."
        )
    with _explain_errors(f"The student of the arm {arm!r} cannot be judged", "budget"):
        test = material.data.test.select(torch.arange(min(_FEW, len(material.data.test))))
        against: Any = teacher if material.task.asks_teacher else None
        material.task.evaluate(run.student, eval_batches(test), preprocess=material.data.preprocess, teacher=against)
        judged = run.student.cpu()
        if (structure := structure_of(judged)) not in timed:  # the students of most arms are alike
            cost_in_full(judged, material.data.preprocess(eval_batches(test)[0]), batches=(1,), repeats=1)
            timed.add(structure)


def _run_first_steps(
    models: Mapping[str, nn.Module],
    recipe: Recipe,
    job: Job,
    budget: Budget,
    material: ComparisonData,
    *,
    mixed: bool = False,
) -> Run:
    run = Run(
        models, recipe, train_loader(material.train, budget, seed=0, cache=job.cache, mixed=mixed),
        setting=replace(make_train_config(job, budget, material, seed=0), rehearsal=True),
        fabric=open_fabric(precision=job.precision, devices=job.devices, strategy=job.strategy),
    )  # fmt: skip
    # A learning rate that diverges in these few steps may work in a run with warm-up; the run itself raises if not.
    with suppress(DivergedError):
        run.finish()
    return run


def _check_metrics(job: Job, material: ComparisonData) -> None:
    """Call the user's own metrics on random outputs, so that an error shows before training."""
    if job.metrics:
        with seeded(0):
            outputs = material.task.example_outputs(material.task.stored_targets(material.data.test))
        _ = custom_metrics(job, material, outputs, outputs)


@contextmanager
def _explain_errors(cannot: str, place: str) -> Iterator[None]:
    """Turn an error of a user's module into a `LimbeckError`; ``--debug`` prints the traceback.

    `place` is the job's key of the budget with the batch size.
    """
    try:
        with warnings.catch_warnings():
            # There is nothing to report about a teacher that is not trained yet.
            warnings.simplefilter("ignore", LimbeckWarning)
            yield
    except LastBatchError as error:
        way_out = f"To leave that batch out: --set {place}.drop_last=true."
        raise LastBatchError(f"{cannot}: {error} {way_out}") from error
    except LimbeckError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise LimbeckError(
                f"{cannot}: there is not enough memory. A smaller {place}.batch_size with a larger {place}.accumulate "
                "learns the same with less; so do workers=1, and a smaller model."
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise LimbeckError(f"{cannot}: {type(error).__name__}: {reason}") from error


_MANY = 2000
"""Number of pictures above which the progress of decoding is printed."""
_CHUNK = 256


def verify_files(material: ComparisonData, callback: Callback) -> None:
    """Decode every image file of the data once.

    Raises:
        DataError: If files are damaged; the message has their number and the first of them.
    """
    parts = _parts(material)
    count, began = sum(map(len, parts)), time.perf_counter()
    if count > _MANY:
        threads = f"data.num_workers={parts[0].num_workers}"
        callback(Message(f"Decoding all {count:,} images once: a damaged one would stop the job later ({threads})."))
    verify(parts, progress=lambda done, of: callback(ImagesDecoded(done, of)))
    if count:
        callback(Message(f"All {count:,} pictures can be decoded ({time.perf_counter() - began:.1f} s)."))


def verify_some_files(material: ComparisonData, *, seconds: float) -> Finding | None:
    """Decode a random part of the image files within a time limit; None if the data have no image files."""
    parts = _parts(material)
    if not parts:
        return None
    chunks, done = _chunks(parts), 0
    total, until = sum(map(len, parts)), time.perf_counter() + seconds
    for chunk in chunks:
        try:
            verify([chunk])
        except DataError as error:
            return fail("files", done, str(error), "damaged")
        done += len(chunk)
        if time.perf_counter() > until:
            break
    if done < total:
        sentence = (
            "drawn at random, can be decoded; there was no time for the others. A job decodes all before it trains."
        )
        return warn("files", done, f"{done:,} of {total:,} pictures, {sentence}", f"{done:,}")
    return passed("files", done, "Every picture can be decoded, those to test with too.", f"{done:,}")


def _parts(material: ComparisonData) -> list[Dataset]:
    return [part for part in (material.data.test, material.development, material.train) if part.reads_files]


def _chunks(parts: list[Dataset]) -> list[Subset]:
    """Chunks of examples in random order, small parts first."""
    chunks = []
    for part in sorted(parts, key=len):
        order = counter_order(len(part), seed=0, epoch=0, stream="files")
        chunks += [part.select(index) for index in order.split(_CHUNK)]
    return chunks


def find_seen_rows(job: Job, material: ComparisonData, models: Mapping[str, nn.Module]) -> dict[str, Any] | None:
    """Find the parts of the data that a loaded teacher may have been trained on.

    These are the parts that limbeck split off from the training data. The teacher was trained before, perhaps on the
    whole file. Then its accuracy on these parts is too high, and so is the accuracy of students that imitate it.

    Returns:
        ``parts`` (``development``, ``test``) and ``sentence``; None if the job trains the teacher, or the data have
        both parts already.
    """
    if not job.teacher.has_weights and not any(isinstance(m, EstimatorModule) and m.fitted for m in models.values()):
        return None
    if has_no_answers(job):  # it wrote the texts
        return None
    parts = [] if material.data.development is not None else ["development"]
    parts += ["test"] if material.data.held_out else []
    if not parts:
        return None
    score = material.task.primary
    sentence = (
        f"The {' and '.join(parts)} {score.examples} were taken out of the training data, and the teacher was trained "
        f"before that: it may have been trained on them, and its {score.title} there may be too "
        f"{'high' if score.higher_is_better else 'low'}."
    )
    if "test" in parts:
        sentence += " Separate test data that the teacher has not seen avoid this."
    return {"parts": parts, "sentence": sentence}
