"""The teacher of a comparison: opened, checked, and trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch
from limbeck.compare.adversarial_teacher import adversarial_of, check_adversarial, describe_attack, make_attacks
from limbeck.compare.comparison_data import (
    ComparisonData,
    call_checked,
    check_classes,
    check_names,
    eval_batches,
    is_judged_by_teacher,
    is_language,
    judged_parts,
    make_train_config,
    new_model,
    shape_in,
)
from limbeck.compare.estimator import (
    EstimatorModule,
    check_estimator_task,
    fit_estimator,
    make_estimator_teacher,
    open_estimator,
)
from limbeck.compare.language import (
    align_teacher,
    average_teachers,
    check_positions,
    compares_texts,
    open_own_tokenizer,
)
from limbeck.compare.saved_teacher import check_saved_teacher, check_tokenizer, other_inputs_error, own_preprocess
from limbeck.compare.served_teacher import open_served
from limbeck.compare.student_start import make_student
from limbeck.compare.trackers import with_trackers
from limbeck.data import Attack, Dataset, Preprocess, ShuffledLoader
from limbeck.engine import Run, StepReport, open_fabric
from limbeck.errors import LimbeckError
from limbeck.events import Callback, EnsemblePlanned, Message, StepsTaken
from limbeck.job import Budget, Job, RunLayout, TeacherSettings, add_flag_hint, train_loader
from limbeck.methods import method
from limbeck.model_call import call, logits_of
from limbeck.models import NoModuleError
from limbeck.models.arguments import check_arguments
from limbeck.recipe import Recipe, Stage
from limbeck.tap import FrozenParameters
from limbeck.tasks import Task
from limbeck.teachers import (
    AlignedTeacher,
    CrossTokenizerTeacher,
    EstimatorFile,
    ModelTeacher,
    ServedTeacher,
    SklearnTeacher,
    Teacher,
    TeacherContext,
    has_other_tokenizer,
)


def open_teacher(job: Job, material: ComparisonData) -> tuple[Teacher, dict[str, nn.Module]]:
    """Open the teacher, loaded or still untrained, and its modules.

    A saved teacher uses the preprocessing that was saved with it.

    Raises:
        LimbeckError: If the teacher cannot be opened, fails on the data, or has another number of classes.
    """
    settings = job.teacher
    if settings.url is not None:
        served, module = _open_served(job, settings, material)
        return served, {"member-0": module}
    if settings.has_weights and settings.members > 1:
        raise LimbeckError(
            f"teacher.members={settings.members} of {settings.model} would be the same network {settings.members} "
            "times; members are for a teacher that is trained here."
        )
    opened = {
        name: _open_part(job, part, material, seed=1000 + number)
        if part.url is None
        else _open_served(job, part, material, key=f"{settings.place}.{name}")
        for number, (name, part) in enumerate(settings.parts.items())
    }
    models = {name: model for name, (_, model) in opened.items()}
    teachers = _align(job, material, [teacher for teacher, _ in opened.values()])
    for part, teacher, model in zip(settings.parts.values(), teachers, models.values(), strict=True):
        if part.url is None and (not isinstance(model, EstimatorModule) or part.has_weights):
            _check_opened(job, part, teacher, model, material)
    check_adversarial(job, models, material)
    if len(teachers) == 1:
        return teachers[0], models
    return average_teachers(job, teachers), models


def _open_served(
    job: Job, part: TeacherSettings, material: ComparisonData, *, key: str | None = None
) -> tuple[ServedTeacher | AlignedTeacher, nn.Module]:
    """Open a teacher behind a server, and let it score a text of each part of the data.

    Args:
        job: The job.
        part: The settings of this teacher.
        material: The data.
        key: The place of one of several teachers in the job; None for the only one.
    """
    if job.student.starts_from_teacher:
        raise LimbeckError(
            f"student: {job.student.model} takes layers of its teacher, and those of {part.title} are behind a server. "
            "Name another student."
        )
    student = make_student(job, material, seed=0) if is_language(material.task) else nn.Identity()
    teacher, module = open_served(job, part, material, student)
    if key is not None and teacher.capabilities.partial:
        raise LimbeckError(
            f"Several teachers are averaged token by token, and the server of {part.title} lists some tokens only. Let "
            f"it list all of them (vllm serve ... --max-logprobs -1) and type --set {key}.top_k=null."
        )
    for examples in (material.train, *judged_parts(material).values()):
        with teacher.open(TeacherContext(loader=ShuffledLoader(examples, batch_size=1))):
            pass  # its longest text fits
        ask(teacher, examples.select(torch.tensor([0])), material)
    return teacher, module


def _align(
    job: Job,
    material: ComparisonData,
    teachers: Sequence[ModelTeacher | SklearnTeacher | ServedTeacher | AlignedTeacher],
) -> list[ModelTeacher | SklearnTeacher | ServedTeacher | AlignedTeacher | CrossTokenizerTeacher]:
    """The teachers in the vocabulary of the student; other tasks have none."""
    if not is_language(material.task) or job.student.starts_from_teacher:
        return list(teachers)
    student = make_student(job, material, seed=0)
    return [
        align_teacher(job, part, teacher, material.train, student) if isinstance(teacher, ModelTeacher) else teacher
        for part, teacher in zip(job.teacher.parts.values(), teachers, strict=True)
    ]


def _open_part(
    job: Job, part: TeacherSettings, material: ComparisonData, *, seed: int
) -> tuple[ModelTeacher | SklearnTeacher, nn.Module]:
    """One model of the teacher."""
    if (file := EstimatorFile.parse(part.model)) is not None:
        try:
            without = ("estimator", "preprocess", "classes", "class_names", "mean", "std")
            arguments = check_arguments(part.model, SklearnTeacher, part.arguments, without=without)
        except LimbeckError as error:
            raise add_flag_hint(error, "teacher") from error
        estimator = file.open()
        check_estimator_task(estimator, f"{file.path} holds", material)
        own = make_estimator_teacher(estimator, material, **arguments)
        return own, EstimatorModule(own, fitted=True)
    try:
        ours = material.data.tokenizer if is_language(material.task) else None
        theirs = None if ours is None else open_own_tokenizer(part)
        other = None if ours is None or theirs is None or theirs.get_vocab() == ours.get_vocab() else theirs
        model = new_model(part, material, seed=seed, who="teacher", tokenizer=other)
        if other is not None and not compares_texts(job):
            check_positions(model, material.train, f"The teacher {part.model}")
    except NoModuleError as error:
        module = open_estimator(error.result, part.model, material)
        if part.members > 1:
            raise LimbeckError(
                f"teacher.members={part.members}: an estimator cannot have members; remove the option."
            ) from error
        return module.teacher, module
    check_saved_teacher(part, material)
    check_names(part, model, material.data)
    preprocess = own_preprocess(part, material.data)
    if not is_language(material.task):  # language models are aligned
        check_tokenizer(part, material.data)
    _check_preprocess(job, preprocess)
    return ModelTeacher(model, preprocess=preprocess), model


def _check_opened(
    job: Job, part: TeacherSettings, teacher: Teacher, model: nn.Module, material: ComparisonData
) -> None:
    """Run a teacher on one example of each part of the data.

    Raises:
        LimbeckError: If the teacher fails, or has another number of classes than the data.
    """
    if has_other_tokenizer(teacher):  # it was tried on texts when it was made, and has no outputs of the student's
        return
    first = material.train.select(torch.tensor([0]))
    shape, who = "x".join(map(str, material.input_shape)), f"The teacher {part.model}"
    try:
        logits = call_checked(lambda: next(iterate_answers(teacher, first, material))[1], who, shape)
    except LimbeckError as error:
        if isinstance(teacher, SklearnTeacher):
            raise LimbeckError(
                f"{str(error).rstrip('.')}. An estimator gets the student's inputs, a table's encoded columns: fit it "
                "on limbeck.load_data(...).train.inputs, with the data and the options of the job; docs/teachers.md "
                "has the lines. For other inputs, let a function return limbeck.SklearnTeacher(it, preprocess=...)."
            ) from error
        raise other_inputs_error(part, material, error) from error
    check_classes(logits, who, material.task, is_teacher=True)
    if isinstance(teacher, ModelTeacher) and teacher.preprocess is not None:
        _check_own(job, model, teacher.preprocess, material)
    for split, examples in judged_parts(material).items():
        one = examples.select(torch.tensor([0]))
        shape = shape_in(split, material.data.preprocess(one.take(torch.tensor([0]))))
        call_checked(partial(ask, teacher, one, material), who, shape)


def train_teacher(
    models: Mapping[str, nn.Module], job: Job, material: ComparisonData, out: Path | None, callback: Callback
) -> None:
    """Train the teacher unless it has weights; training that was interrupted is resumed."""
    if job.teacher.has_weights:
        callback(Message(f"Teacher loaded from {job.teacher.title}."))
        return
    for name, module in without_weights(job, models).items():
        if not isinstance(module, EstimatorModule):
            continue
        model, kind = job.teacher.parts[name].model, type(module.teacher.estimator).__name__
        if module.fitted:
            callback(Message(f"Teacher: the fitted {kind} of {model}."))
        else:
            callback(Message(f"Fitting the teacher: {kind}."))
            fit_estimator(module, model, material)
    networks = {
        name: model for name, model in without_weights(job, models).items() if not isinstance(model, EstimatorModule)
    }
    if networks:
        _train_networks(networks, job, material, out, callback)


def without_weights(job: Job, models: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The models of the teacher that the job trains or fits."""
    return {name: models[name] for name, part in job.teacher.parts.items() if not part.has_weights}


def _train_networks(
    models: Mapping[str, nn.Module], job: Job, material: ComparisonData, out: Path | None, callback: Callback
) -> None:
    groups = equally_trained(job, models)
    folder = RunLayout(out).teacher if out else None
    for seed, (budget, names) in enumerate(groups):
        own = "" if len(groups) == 1 else names[0]
        _train_group(
            {name: models[name] for name in names}, job, budget, material, own=own, seed=seed,
            out=folder / own if folder else None, callback=callback,
        )  # fmt: skip


def equally_trained(job: Job, names: Iterable[str]) -> list[tuple[Budget, list[str]]]:
    """Models of the teacher in groups with the same budget and attack. Each group is trained in one run."""
    groups: list[tuple[Budget, list[str]]] = []
    for name in names:
        budget, attack = job.teacher_budgets[name], adversarial_of(job, name)
        same = next(
            (group for other, group in groups if other == budget and adversarial_of(job, group[0]) == attack), None
        )
        if same is None:
            groups.append((budget, [name]))
        else:
            same.append(name)
    return groups


def _train_group(
    models: Mapping[str, nn.Module],
    job: Job,
    budget: Budget,
    material: ComparisonData,
    *,
    own: str,
    seed: int,
    out: Path | None,
    callback: Callback,
) -> None:
    """Train models with one budget. `own` is the name of the group if there are several."""
    recipe = teachers_recipe(tuple(models), material.task, make_attacks(job, material, models))
    run = Run(
        models, recipe, train_loader(material.train, budget, seed=seed),
        setting=make_train_config(job, budget, material, seed=seed, workers=job.workers),
        fabric=open_fabric(precision=job.precision, devices=job.devices, strategy=job.strategy),
        out=out, resume=True,
    )  # fmt: skip
    done = "Teacher already trained" if run.finished else "Training the teacher"
    against = describe_attack(job, next(iter(models)))
    callback(Message(f"{done}: {_count(job, models)}, {budget.epochs} epoch{'s' * (budget.epochs != 1)}{against}."))
    if len(models) > 1:
        callback(EnsemblePlanned(len(models)))
    for report in with_trackers(run, job, f"teacher-{own}" if own else "teacher"):
        callback(steps_taken("teacher", report))


def _count(job: Job, models: Mapping[str, nn.Module]) -> str:
    several = f"{len(models)} x " if len(models) > 1 else ""
    return ", ".join(models) if job.teacher.ensemble else f"{several}{job.teacher.model}"


def steps_taken(run: str, report: StepReport) -> StepsTaken:
    """The event for a report of a run; `run` is its name, such as ``distilled, seed 0``."""
    where = report.part, report.title, report.step, report.steps
    return StepsTaken(run, *where, report.rate, report.terms, report.generation)


def teachers_recipe(members: Sequence[str], task: Task, attacks: Mapping[str, Attack] | None = None) -> Recipe:
    """The recipe of an untrained teacher: each member learns from the labels, independently.

    Args:
        members: The names of its models.
        task: The task.
        attacks: The attacks by name on models that learn from changed images.
    """
    stages = [
        Stage(task.supervised_loss(), trains=name, loader=(attacks or {}).get(name), name="teacher") for name in members
    ]
    recipe = Recipe(stages[0])
    for stage in stages[1:]:
        recipe = recipe | stage
    return recipe


def iterate_answers(teacher: Teacher, examples: Dataset, material: ComparisonData) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch of examples, in order, with the teacher's logits."""
    with teacher.open(TeacherContext(preprocess=material.data.preprocess)) as answer:
        for batch in eval_batches(examples):
            yield batch, answer(batch)[LOGITS].float()


def ask(teacher: Teacher, examples: Dataset, material: ComparisonData) -> Tensor:
    """The teacher's outputs for every example, in order, on the CPU, as the task stores them."""
    if material.task.asks_teacher:
        how: dict[str, Any] = {"preprocess": material.data.preprocess}
        if is_judged_by_teacher(material.task):  # its divergence from itself is part of the result
            how["teacher"] = teacher
        return material.task.evaluate(teacher, eval_batches(examples), **how).outputs
    return torch.cat([material.task.keep(logits) for _, logits in iterate_answers(teacher, examples, material)])


def _check_preprocess(job: Job, own: Preprocess | None) -> None:
    """Raise if the job would train the teacher on inputs other than those its method uses.

    Raises:
        LimbeckError: If they differ; the message has the option to type instead.
    """
    if own is None and "preprocess" in method(job.method.name).parameters:
        raise LimbeckError(
            f"The method {job.method.name} has a teacher with inputs of its own, but a job trains its teacher on the "
            "student's inputs. Train it in Python with preprocess=lb.data.SelectColumn('privileged'), save it with "
            "lb.save(teacher, 'teacher', metadata={'preprocess': {'preprocess': 'field', 'name': 'privileged'}}), and "
            "type --teacher teacher."
        )


def _check_own(job: Job, model: nn.Module, own: Callable[[Batch], Any], material: ComparisonData) -> None:
    """Check that the test data have the teacher's own inputs, and that it can be timed on the student's.

    Raises:
        LimbeckError: If either fails.
    """
    first = material.data.test.take(torch.tensor([0]))
    own(first)
    shape = "x".join(map(str, material.input_shape))
    try:
        with torch.no_grad(), FrozenParameters(model):
            call_checked(
                lambda: logits_of(call(model, material.data.preprocess(first))),
                f"The teacher {job.teacher.model}",
                shape,
            )
    except LimbeckError as error:
        raise LimbeckError(
            f"{error} The teacher has inputs of its own, but a job times it on the student's inputs; use Python."
        ) from error
