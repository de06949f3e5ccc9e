"""One arm with one seed."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped
from torch import Tensor, nn

from limbeck.atomic_io import make_folder, write_text
from limbeck.checksums import read_lines
from limbeck.compare.adversarial_teacher import find_largest_pixel
from limbeck.compare.arm_recipes import is_taught, recipe_of
from limbeck.compare.comparison_data import ComparisonData, eval_batches, is_judged_by_teacher, make_train_config
from limbeck.compare.costs import Combined, ShippedCost, measure_combined, structure_of
from limbeck.compare.estimator_student import fit_student, save_student
from limbeck.compare.language import is_untrained
from limbeck.compare.student_start import make_student
from limbeck.compare.teacher_cache import asks_server, with_cache
from limbeck.compare.teacher_weights import measure_teacher_weights
from limbeck.compare.trackers import is_rank_zero, with_trackers
from limbeck.data import Preprocess
from limbeck.engine import Run, StepReport, open_fabric
from limbeck.errors import LimbeckWarning
from limbeck.job import Job, hide_private_paths, plain_name, train_loader
from limbeck.job.run_layout import METRICS as METRICS_FILE
from limbeck.job.run_layout import PREDICTIONS, SAMPLES, STUDENT, arm_folder_name, seed_folder_name
from limbeck.methods.logits.qad import RoundedCopy
from limbeck.methods.support import FreshCopy
from limbeck.metrics import evaluate_metrics, open_metrics, save_tensors
from limbeck.models import count_parameters, save, set_token_ids
from limbeck.recipe import Recipe
from limbeck.tasks import Evaluation, Task
from limbeck.teachers import AlignedTeacher, Ensemble, ModelTeacher, Teacher
from limbeck.teachers.estimators import EstimatorModule


class ArmRun(NamedTuple):
    """One arm with one seed, with everything that a worker process needs.

    Attributes:
        job: The job.
        arm: The arm's name.
        seed: Seed of initial weights, order of the data and noise; arms are paired by it.
        out: The run's folder, or None.
        student: The student's folder, if it is not inside the run's folder.
        smoothing: The smoothing of the arm "label smoothing".
    """

    job: Job
    arm: str
    seed: int
    out: Path | None
    student: Path | None
    smoothing: float = 0.1


class Outcome(NamedTuple):
    """The result of one arm with one seed.

    Attributes:
        arm: The arm's name.
        seed: The seed of the run.
        measures: Metrics on the test data.
        development: The primary metric of the task on development data.
        seconds: Seconds of training and evaluation; None for a resumed run.
        steps: Number of optimizer steps of all stages, also those before an interruption; None if unknown.
        combined: The teacher that the method built, if it built one.
        parameters: Number of parameters of the shipped model; None if unknown.
        cost: Costs of the shipped model, if its structure is not that of the job's student; only for the first seed.
        scores: The score of each test example with a target (`limbeck.tasks.Evaluation`); None if unknown.
        reports: Number of lines in ``metrics.jsonl``, so that a lost line is noticed; None if unknown.
        teacher_weights: The weight of each of several teachers at the end (`measure_teacher_weights`); None for one.
    """

    arm: str
    seed: int
    measures: dict[str, float]
    development: float
    seconds: float | None = None
    steps: int | None = None
    combined: Combined | None = None
    parameters: int | None = None
    cost: ShippedCost | None = None
    scores: Shaped[np.ndarray, " examples"] | None = None
    reports: int | None = None
    teacher_weights: dict[str, float] | None = None


def start(arm: ArmRun, material: ComparisonData, teacher: Teacher, student: nn.Module | None = None) -> Run:
    """Open the run of an arm, with a new student unless there is one; a run that was interrupted continues."""
    job, budget = arm.job, arm.job.budget_of(arm.arm)
    recipe = recipe_of(
        job, arm.arm, with_cache(job, teacher, material.task), task=material.task, smoothing=arm.smoothing,
        development=material.development, largest_pixel=find_largest_pixel(material),
    )  # fmt: skip
    labels = {"ships": "a module that the method has put together"} if _ships_other_structure(recipe) else {}
    return Run(
        {"student": make_student(job, material, seed=arm.seed, teacher=teacher) if student is None else student},
        recipe,
        train_loader(material.train, budget, seed=arm.seed, cache=job.cache, mixed=is_taught(job, arm.arm)),
        setting=make_train_config(job, budget, material, seed=arm.seed),
        fabric=open_fabric(precision=job.precision, devices=job.devices, strategy=job.strategy),
        out=arm.out,
        resume=True,
        metadata={**metadata_of(job, arm.arm, material), **labels},
        student_out=arm.student,
    )


def _ships_other_structure(recipe: Recipe) -> bool:
    """Whether a recipe ships a model that only its run can build again: neither the student nor a copy of it."""
    maker: Any = recipe.makes.get(recipe.ship) if isinstance(recipe.ship, str) else recipe.ship
    if isinstance(maker, RoundedCopy):  # the rounding is recorded with the model, and made again
        return maker.base != "student"
    return maker is not None and not isinstance(maker, FreshCopy)


def metadata_of(job: Job, arm: str, material: ComparisonData) -> dict[str, Any]:
    """The metadata in the student's ``config.json``: its inputs, and the meaning of its outputs."""
    preprocess = material.data.preprocess
    return {
        "class_names": list(material.data.class_names or ()) or None,
        "preprocess": preprocess.to_dict() if isinstance(preprocess, Preprocess) else None,
        "encoding": material.data.encoding.to_dict() if material.data.encoding is not None else None,
        "input_shape": list(material.input_shape),
        "classes": material.classes,
        "task": material.task.to_dict(),
        "data": plain_name(material.data.name),
        "arm": arm,
        "method": plain_name(job.method_arms[arm].name) if arm in job.method_arms else None,
    }


def run_arm(
    arm: ArmRun,
    material: ComparisonData,
    teacher: Teacher,
    answers: Tensor,
    callback: Callable[[StepReport], None] | None = None,
) -> Outcome:
    """Train an arm, and evaluate its student once on the test data."""
    began, fresh = time.perf_counter(), arm.out is None or not arm.out.exists()
    if is_untrained(arm.job, arm.arm):
        outcome = _evaluate(arm, _leave_untrained(arm, material, teacher), material, teacher, answers)
        return outcome._replace(seconds=time.perf_counter() - began, steps=0)
    student = make_student(arm.job.of_arm(arm.arm), material, seed=arm.seed, teacher=teacher)
    if isinstance(student, EstimatorModule):
        return _fit_arm(arm, student, material, teacher, answers)
    run = start(arm, material, teacher, student)
    plain = structure_of(run.models["student"])
    stage_steps: dict[str, int] = {}
    for report in with_trackers(run, arm.job, f"{arm_folder_name(arm.arm)}/{seed_folder_name(arm.seed)}"):
        stage_steps[report.stage] = report.step
        if callback is not None:
            callback(report)
    outcome = _evaluate(arm, shipped := run.student, material, teacher, answers)
    seconds = time.perf_counter() - began if fresh else None
    if arm.seed == 0 and is_rank_zero(arm.job):
        write_samples(shipped, material, arm.out, teacher=teacher if can_write(teacher) else None)
    # A method may ship another model than the student, and any model may come out of training in another dtype.
    cost = ShippedCost.measure(shipped, material) if arm.seed == 0 and structure_of(shipped) != plain else None
    noted = _read_reports(arm)
    return outcome._replace(
        seconds=seconds,
        steps=_steps(noted, stage_steps),
        combined=measure_combined(run, material, answers),
        cost=cost,
        reports=len(noted) if arm.out is not None else None,
        teacher_weights=measure_teacher_weights(run),
    )


def _evaluate(arm: ArmRun, student: nn.Module, material: ComparisonData, teacher: Teacher, answers: Tensor) -> Outcome:
    """Evaluate a student on the test and the development data, and save its outputs."""
    task, preprocess = material.task, material.data.preprocess
    against = reference(task, teacher, answers)
    test = task.evaluate(student, eval_batches(material.data.test), preprocess=preprocess, teacher=against)
    development = evaluate_development(student, material, teacher)
    if arm.out is not None and is_rank_zero(arm.job):
        save_tensors({"test": test.outputs, "development": development.outputs}, arm.out / PREDICTIONS)
    own = custom_metrics(arm.job, material, test.outputs, answers)
    value = development.measures.get(task.primary.name, math.nan)
    return Outcome(
        arm.arm, arm.seed, test.measures | own, value, parameters=count_parameters(student), scores=test.scores
    )


def evaluate_development(student: nn.Module, material: ComparisonData, teacher: Teacher) -> Evaluation:
    """Evaluate a student on the development data; with the teacher only if the primary metric needs it."""
    task = material.task
    how: dict[str, Any] = {"teacher": teacher} if is_judged_by_teacher(task) else {}
    return task.evaluate(student, eval_batches(material.development), preprocess=material.data.preprocess, **how)


def _leave_untrained(arm: ArmRun, material: ComparisonData, teacher: Teacher) -> nn.Module:
    """The student with the weights with which all arms of this seed begin, saved as a trained one is."""
    student = make_student(arm.job, material, seed=arm.seed, teacher=teacher)
    set_token_ids(student, material.data.tokenizer)
    if arm.out is not None and is_rank_zero(arm.job):
        save(student, arm.out / STUDENT, metadata=metadata_of(arm.job, arm.arm, material))
        if arm.seed == 0:
            write_samples(student, material, arm.out, teacher=teacher if can_write(teacher) else None)
    return student.to(open_fabric(precision=arm.job.precision, devices=1).device).eval()


def _fit_arm(
    arm: ArmRun, student: EstimatorModule, material: ComparisonData, teacher: Teacher, answers: Tensor
) -> Outcome:
    """Fit an estimator as the student of an arm, and evaluate it once on the test data."""
    began = time.perf_counter()
    fit_student(arm.job, arm.arm, student, material, teacher, seed=arm.seed, smoothing=arm.smoothing)
    if arm.out is not None and is_rank_zero(arm.job):
        make_folder(arm.out)
        place = arm.out / STUDENT if arm.student is None else arm.student
        save_student(student, place, metadata_of(arm.job, arm.arm, material))
    outcome = _evaluate(arm, student, material, teacher, answers)
    seconds = time.perf_counter() - began
    cost = ShippedCost.measure(student, material) if arm.seed == 0 else None
    return outcome._replace(seconds=seconds, cost=cost, parameters=None)


def _read_reports(arm: ArmRun) -> list[dict[str, Any]]:
    """The step reports on disk, those before an interruption included."""
    return [] if arm.out is None else read_lines(arm.out / METRICS_FILE).values


def _steps(noted: list[dict[str, Any]], stage_steps: dict[str, int]) -> int:
    """The optimizer steps of all stages, those before an interruption included."""
    logged = {str(line["stage"]): int(line["step"]) for line in noted if {"stage", "step"} <= line.keys()}
    return sum((logged | stage_steps).values())


def reference(task: Task, teacher: Teacher, answers: Tensor) -> Any:
    """What a task compares a model with: the teacher itself, or its stored outputs."""
    return teacher if task.asks_teacher else answers


def can_write(teacher: Teacher) -> bool:
    """Whether a teacher answers new texts, and not only those whose outputs are stored."""
    inner = teacher.inner if isinstance(teacher, AlignedTeacher) else teacher
    # Of a server, each token would be a request.
    return isinstance(inner, (ModelTeacher, Ensemble)) and not asks_server(teacher)


def write_samples(model: Any, material: ComparisonData, folder: Path | None, *, teacher: Teacher | None = None) -> None:
    """Write what a language model answers to prompts of the test data; nothing for other tasks.

    The texts are only for people, so an error is written in their place, and the job goes on.

    Args:
        model: The model.
        material: The data and the task.
        folder: The folder of the file; None for nothing.
        teacher: The teacher, to measure the model as its draft model.
    """
    if folder is None or not material.task.asks_teacher:
        return
    try:
        samples = material.task.sample_texts(
            model, material.data.test, preprocess=material.data.preprocess, teacher=teacher
        )
    except Exception as error:  # models of libraries and of users raise anything
        reason = hide_private_paths(" ".join(str(error).split()), folder)[:500].rstrip(".")
        samples = {"failure": f"Texts were not written: {type(error).__name__}: {reason}."}
        warnings.warn(f"{folder}: {samples['failure']}", LimbeckWarning, stacklevel=2)
    if samples is not None:
        write_text(json.dumps(samples, indent=1, ensure_ascii=False), folder / SAMPLES)


def custom_metrics(job: Job, material: ComparisonData, outputs: Tensor, answers: Tensor | None) -> dict[str, float]:
    """The user's own metrics on the test data, each ``my.py:function``."""
    if not job.metrics:
        return {}
    task = material.task
    arguments = task.metric_arguments(outputs, task.stored_targets(material.data.test), answers)
    return evaluate_metrics(open_metrics(job.metrics, task.metrics), arguments)
