"""The result of all arms, and their trained students."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.compare.arm_recipes import ALONE, SHUFFLED, SMOOTHED, TEXTS
from limbeck.compare.arms import Outcome, custom_metrics, reference
from limbeck.compare.comparison_data import ComparisonData, eval_batches
from limbeck.compare.costs import Combined, ShippedCost, cost_inputs, measure_costs
from limbeck.compare.estimator import unknown_sizes
from limbeck.compare.language import has_no_answers, is_untrained
from limbeck.compare.run_storage import seed_folder
from limbeck.compare.served_teacher import describe_row
from limbeck.compare.student_start import make_student
from limbeck.data import preprocess_from_dict
from limbeck.engine import open_fabric
from limbeck.export.finished_run import FinishedRun, rebuild_student
from limbeck.job import ROUNDED, Job, MethodSettings, RunLayout, plain_name
from limbeck.judging.verdict import Results, compare_results, compare_with_baseline, compare_with_control
from limbeck.methods import method
from limbeck.metrics import Cost, cost_of
from limbeck.models import get_description, read_config
from limbeck.tasks import Classification, Score, Task, get_task
from limbeck.teachers import ModelTeacher, Teacher
from limbeck.teachers.teacher import Preprocess


def std_over_seeds(values: Sequence[float]) -> float:
    """The sample standard deviation (n - 1); 0 for a single value."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


_EQUAL = 0.05  # numbers of steps within this fraction count as equal

COMBINED = "combined teacher"

"""The row of a generalist and its specialists, the teacher that a method built for its students."""

MEMBER = "one member"

"""The row of an ensemble's members, each alone: one value per member in place of one per seed."""


def arms_rows(
    job: Job,
    material: ComparisonData,
    outcomes: Sequence[Outcome],
    answers: Tensor,
    opened: tuple[Teacher, Mapping[str, nn.Module]],
    *,
    smoothing: float,
) -> dict[str, Any]:
    """The row of every arm; `opened` is the teacher and its models by name.

    Metrics over seeds, and costs on the CPU; for an ensemble also the row of its members.
    """
    table: dict[str, Any] = {}
    task, (teacher, teachers) = material.task, opened
    against = reference(task, teacher, answers)
    student = make_student(job, material, seed=0, teacher=ModelTeacher(next(iter(teachers.values())))).cpu()
    # Students with the same structure are timed once, on the CPU; others were timed by their arm.
    plain = ShippedCost.measure(student, material)
    for arm in job.all_arms:
        if arm == "teacher":
            sample = cost_inputs(material, teacher)
            served = describe_row(teacher)
            costs = [] if served else [cost_of(model.cpu(), sample) for model in teachers.values()]
            own = _measures_of_teacher(job, answers, material)
            table[arm] = {"role": "teacher", "method": None, **_row([own], costs, task)}
            if served:
                table[arm].update(served)
                continue
            if len(costs) == 1:
                table[arm]["cost"] = measure_costs(next(iter(teachers.values())), sample).as_dict()
            table[arm].update(unknown_sizes(teachers.values(), table[arm].get("cost", {})))
            if len(costs) > 1:
                # A single member could be shipped in place of the ensemble, so the row shows the gain of averaging.
                rows = [_alone(job, model, answers, material, against) for model in teachers.values()]
                if job.teacher.ensemble:
                    for name, row, own_cost in zip(teachers, rows, costs, strict=True):
                        own_row = {"role": "member", "method": None, **_row([row], [own_cost], task)}
                        table[f"teacher {name}"] = {**own_row, **unknown_sizes([teachers[name]], {})}
                else:
                    table[MEMBER] = {"role": "member", "method": None, **_row(rows, costs[:1], task)}
            continue
        runs = sorted((one for one in outcomes if one.arm == arm), key=lambda one: one.seed)
        put_together = [one.combined for one in runs if one.combined is not None]
        if put_together:
            table[COMBINED if len(job.method_arms) == 1 else f"{COMBINED} of {arm}"] = _combined_row(put_together, task)
        seconds = [one.seconds for one in runs if one.seconds is not None]
        cost = next((one.cost for one in runs if one.cost is not None), plain)
        table[arm] = {
            "role": "method" if arm in job.method_arms else "control",
            "method": _learnt_by(job, arm, smoothing),
            **_row([one.measures for one in runs], [cost], task),
            "cost": cost.in_full,
            **({"size_note": cost.note} if cost.note else {}),
            "development": over_seeds([one.development for one in runs]),
            "seconds": round(sum(seconds) / len(seconds), 3) if seconds else None,
            "steps": runs[0].steps,
            **_teacher_weights(runs),
        }
    return table


def _teacher_weights(runs: Sequence[Outcome]) -> dict[str, Any]:
    """The entry for the weights of several teachers over seeds; empty for an arm with one teacher or none."""
    rows = [one.teacher_weights for one in runs if one.teacher_weights]
    if len(rows) < len(runs):
        return {}
    return {"teacher_weights": {name: over_seeds([row[name] for row in rows]) for name in rows[0]}}


def _combined_row(teachers: Sequence[Combined], task: Task) -> dict[str, Any]:
    """The row of a teacher that a method combined, with one value per run."""
    count = len(teachers)
    return {
        "role": "member",
        "method": None,
        **_summary([teacher.measures for teacher in teachers], task),
        "parameters": round(sum(teacher.parameters for teacher in teachers) / count),
        "megabytes": round(sum(teacher.megabytes for teacher in teachers) / count, 6),
        "milliseconds": round(sum(teacher.milliseconds for teacher in teachers) / count, 6),
    }


def method_settings(method: MethodSettings) -> dict[str, Any]:
    """The name and the settings of a method."""
    return {"name": plain_name(method.name), **method.hyper}


def _learnt_by(job: Job, arm: str, smoothing: float) -> dict[str, Any] | None:
    if is_untrained(job, arm):
        return None
    if arm in (ALONE, TEXTS):
        return {"name": "supervised"}
    return (
        {"name": "label_smoothing", "smoothing": smoothing}
        if arm == SMOOTHED
        else method_settings(job.method_arms.get(arm, job.method))
    )


def _row(rows: list[dict[str, float]], costs: Sequence[Cost | ShippedCost], task: Task) -> dict[str, Any]:
    return {
        **_summary(rows, task),
        "parameters": _sum([c.parameters for c in costs]),
        "megabytes": _sum([c.megabytes for c in costs], digits=6),
        "milliseconds": round(sum(c.milliseconds for c in costs), 6),
    }


def _sum(values: Sequence[int | float | None], digits: int | None = None) -> int | float | None:
    """The sum; None if a value is not known."""
    known = [value for value in values if value is not None]
    total = sum(known)
    return None if len(known) < len(values) else total if digits is None else round(total, digits)


def _alone(job: Job, member: nn.Module, answers: Tensor, material: ComparisonData, against: Any) -> dict[str, float]:
    own = get_description(member).get("preprocess")  # set for a saved model with other inputs than the students
    preprocess = material.data.preprocess if own is None else preprocess_from_dict(own)
    evaluation = material.task.evaluate(
        member, eval_batches(material.data.test), preprocess=preprocess, teacher=against
    )
    return evaluation.measures | custom_metrics(job, material, evaluation.outputs, answers)


def _measures_of_teacher(job: Job, answers: Tensor, material: ComparisonData) -> dict[str, float]:
    """The teacher's metrics, as far as its stored outputs allow."""
    measures = material.task.measure(answers, material.task.stored_targets(material.data.test), answers)
    return measures | custom_metrics(job, material, answers, answers)


def verdict_of(
    job: Job, outcomes: Sequence[Outcome], *, examples: int, task: str | Task = "classification"
) -> dict[str, Any]:
    """Compare the method that is best on development data with every control.

    Development and test accuracy come from the same students, so a method that is chosen for lucky seeds is lucky on
    the test data too. All intervals and p-values of the chosen method are therefore corrected for the number of
    methods.
    """
    score = get_task(task).primary
    arm, count = _best(job, outcomes, score), len(job.method_arms)
    if ALONE not in job.arms or not count:
        missing, why = (ALONE, "there is nothing to compare with") if count else ("distilled", "no method is compared")
        sentence = f"No verdict: without the arm {missing!r} {why}."
        return {"arm": arm, "difference": None, "interval": None, "helps": None, "sentence": sentence, "against": {}}
    if is_control(job, arm):
        best = f"Of {count} methods {arm} is the best on development data. " if count > 1 else ""
        sentence = (
            f"{best}No verdict: the method supervised learns from the labels or texts alone, without the teacher, so "
            f"{arm!r} and the control {ALONE!r} are the same student, and there is nothing to compare."
        )
        none: dict[str, Any] = {
            "arm": arm,
            "difference": None,
            "interval": None,
            "helps": None,
            "sentence": sentence,
            "against": {},
        }
        return none | ({"methods": _each(job, outcomes, examples, score)} if count > 1 else {})
    alone = results_of(outcomes, arm, ALONE, score=score)
    trained = "trained alone" if not has_no_answers(job) else "before training"
    verdict = compare_with_baseline(
        *alone, name=f"the same student {trained}", examples=examples, comparisons=count, score=score
    ).as_dict()
    verdict["sentence"] += _effort(outcomes, arm) + _size(outcomes, arm)
    if has_no_answers(job):
        verdict["sentence"] += " The prompts have no answers, so whether the teacher is right is not measured."
    if count > 1:
        chosen = f"Of {count} methods {arm} is the best on development data. "
        if math.isnan(_development(outcomes, arm)):
            chosen = f"No development example has a label: of {count} methods the first, {arm}. "
        verdict["sentence"] = chosen + verdict["sentence"]
    taught = method(job.method_arms.get(arm, job.method).name).has_teacher  # needed to shuffle outputs
    against = {
        control: compare_with_control(
            *results_of(outcomes, arm, control, score=score),
            name=control,
            examples=examples,
            comparisons=count,
            score=score,
        ).as_dict()
        for control in ((SMOOTHED, TEXTS, SHUFFLED, ROUNDED) if taught else (SMOOTHED, TEXTS, ROUNDED))
        if control in job.arms
    }
    return {"arm": arm, **verdict, "against": against, "methods": _each(job, outcomes, examples, score)}


def is_control(job: Job, arm: str) -> bool:
    """Whether the method of an arm is the control itself, so that its runs are those of the student alone."""
    if has_no_answers(job):
        return False
    learns = job.method_arms.get(arm)
    control = learns is not None and learns.name == "supervised" and not learns.hyper
    budget = job.budget_of(arm)
    # Methods alone get mixtures of images.
    return control and budget == job.budget_of(ALONE) and budget.mix is None


def _effort(outcomes: Sequence[Outcome], arm: str) -> str:
    """A sentence if an arm took more or fewer steps than the student alone."""
    ours, theirs = (next((o.steps for o in outcomes if o.arm == one), None) for one in (arm, ALONE))
    if not ours or not theirs or abs(ours / theirs - 1) < _EQUAL:
        return ""
    return f" It took {ours / theirs:.1f} times as many optimizer steps."


def _size(outcomes: Sequence[Outcome], arm: str) -> str:
    """A sentence if an arm's model has another size than the student alone."""
    ours, theirs = (next((o.parameters for o in outcomes if o.arm == one), None) for one in (arm, ALONE))
    if not ours or not theirs or abs(ours / theirs - 1) < _EQUAL:
        return ""
    return f" It ships {ours / theirs:.3g} times the size of the student alone ({ours:,} parameters, {theirs:,} there)."


def _each(job: Job, outcomes: Sequence[Outcome], examples: int, score: Score) -> dict[str, Any]:
    """Compare every method with the student alone.

    Intervals and p-values are corrected for their number (Bonferroni).
    """
    differences = {
        arm: compare_results(
            *results_of(outcomes, arm, ALONE, score=score),
            examples=examples,
            comparisons=len(job.method_arms),
            score=score,
        )
        for arm in job.method_arms
    }
    return {
        arm: {
            "difference": difference.mean,
            "interval": None
            if difference.low is None or difference.high is None
            else [difference.low, difference.high],
            "p": difference.p,
            "helps": None if difference.low is None else difference.low > 0,
        }
        for arm, difference in differences.items()
    }


def _best(job: Job, outcomes: Sequence[Outcome], score: Score) -> str:
    """The best method on development data; of a job without methods, the best control."""
    arms = [*job.method_arms] or [arm for arm in job.arms if arm != "teacher"]
    return max(arms, key=lambda arm: score.rank(_development(outcomes, arm)))


def _development(outcomes: Sequence[Outcome], arm: str) -> float:
    """The arm's mean primary metric on development data; NaN if no example has a target."""
    values = [one.development for one in outcomes if one.arm == arm]
    return sum(values) / len(values)


def results_of(outcomes: Sequence[Outcome], *arms: str, score: Score = Classification.primary) -> list[Results]:
    """The results of arms.

    The scores of each example if every run has them, otherwise the primary metric of each seed.
    """
    of = [sorted((one for one in outcomes if one.arm == arm), key=lambda one: one.seed) for arm in arms]
    scores = [one.scores for runs in of for one in runs if one.scores is not None]
    if len(scores) < sum(map(len, of)) or len({len(one) for one in scores}) != 1:
        return [[one.measures[score.name] for one in runs] for runs in of]
    return [np.stack(scores[: len(of[0])]), np.stack(scores[len(of[0]) :])]


def _summary(rows: list[dict[str, float]], task: Task) -> dict[str, Any]:
    # A resumed run of an older version may lack a measure in its earlier rows.
    measures = {name: over_seeds([row[name] for row in rows]) for name in rows[0] if all(name in row for row in rows)}
    return {
        task.primary.name: measures[task.primary.name],
        **{
            name: measures[name]["mean"] if name in measures else None for name in task.headline[1:] if name is not None
        },
        "measures": measures,
    }


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """A measure in the result: mean, standard deviation, and one value per seed."""
    return {"mean": sum(values) / len(values), "std": std_over_seeds(values), "values": list(values)}


class MetricContext(NamedTuple):
    """A job, before or after the training of its arms.

    Attributes:
        job: The job.
        material: The data.
        teacher: The teacher.
        models: The modules of the teacher by name.
        arm: The arm of the verdict.
        answers: The teacher's logits for the test data; None before training.
    """

    job: Job
    material: ComparisonData
    teacher: Teacher
    models: Mapping[str, nn.Module]
    arm: str = ""
    answers: Tensor | None = None


def arms_to_measure(job: Job, arm: str) -> list[str]:
    """The student alone, if the job has it, and the arm of the verdict."""
    return list(dict.fromkeys([*([ALONE] if ALONE in job.arms else []), arm]))


def arms_with_every_method(job: Job, arm: str) -> list[str]:
    """The arms of `arms_to_measure`, and those of all other methods.

    The verdict is about the method that is most accurate. A method that is there for something else, such as
    certificates, would not be measured at all if another one is.
    """
    return list(dict.fromkeys([*arms_to_measure(job, arm), *job.method_arms]))


def load_student(job: Job, material: ComparisonData, arm: str, seed: int) -> nn.Module:
    """Load the trained student of an arm and a seed, in eval mode, on the device of the job.

    Raises:
        LimbeckError: If it cannot be loaded.
    """
    run_folder = seed_folder(Path(job.out or ""), arm, seed)
    # With one method, the first student is saved only in the shipped place.
    folder = run_folder if run_folder is not None and RunLayout(run_folder).student.is_dir() else Path(job.out or "")
    student = RunLayout(folder).student
    config, result = read_config(student), {"data": {"classes": material.classes}, "task": material.task.to_dict()}
    run = FinishedRun(folder, job, result, student, config["model"], config["metadata"])
    return rebuild_student(run, material.data).to(first_device(job)).eval()


def first_device(job: Job) -> torch.device:
    """The first device of the job."""
    return open_fabric(precision=job.precision, devices=1).device


def own_preprocess(teacher: Teacher) -> Preprocess | None:
    """The teacher's own preprocessing; None if it uses the data's."""
    return teacher.preprocess if isinstance(teacher, ModelTeacher) else None
