"""How is a job done, from data to verdict?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compare.arms import ArmRun, Outcome, measured, metadata_of, run_arm, run_arm_in_process
from limbeck.compare.material import Material, gather, new_model
from limbeck.compare.statistics import spread
from limbeck.compare.teaching import Watch, ask, check_teacher, prepare_teacher
from limbeck.compare.verdict import judge
from limbeck.engine import environment
from limbeck.errors import LimbeckError
from limbeck.job import Job, job_text
from limbeck.measure import Predictions, cost_of
from limbeck.models import save
from limbeck.report import arms_picture
from limbeck.teachers import Teacher


def run_job(job: Job, *, watch: Watch = lambda kind, what: None, resume: bool = False) -> dict[str, Any]:
    """Do what a job asks: teacher, arms, seeds, verdict; everything is left in the job's folder.

    Args:
        job: What is asked.
        watch: Told what happens meanwhile.
        resume: Take up a folder that holds a run; arms that are done are not run again.

    Returns:
        The result: ``arms`` by name, ``verdict``, ``seconds``, ``run``, and what it was measured on.

    Raises:
        LimbeckError: If anything is wrong with what was asked, before anything is paid for where it can be known.
    """
    began = time.perf_counter()
    out = _folder(job, resume=resume)
    material = gather(job)
    watch("say", _described(material))
    _check_student(job, material, out)
    teacher, models = prepare_teacher(job, material, out, watch)
    answers = ask(teacher, material.data.test, material)
    taught = _judge_teacher(job, teacher, material, watch)
    outcomes = []
    for outcome in _outcomes(job, material, teacher, answers, out, watch):
        outcomes.append(outcome)
        watch("arm", outcome)
    arms = _table(job, material, outcomes, answers, models)
    result = {
        "arms": arms,
        "verdict": _verdict(outcomes),
        "seconds": round(time.perf_counter() - began, 3),
        "run": str(out) if out else None,
        "method": {"name": job.method.name, **job.method.hyper},
        "data": {"name": material.data.name, "train": len(material.train), "development": len(material.development),
                 "test": len(material.data.test), "classes": material.classes},
        "teacher_development_accuracy": taught,
        "environment": environment(),
    }  # fmt: skip
    if out is not None:
        _write(out / "result.json", json.dumps(result, indent=2))
        _write(out / "result.svg", arms_picture(result))
    return result


def _folder(job: Job, *, resume: bool) -> Path | None:
    """The job's folder with the resolved job in it."""
    if job.out is None:
        return None
    out = Path(job.out)
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LimbeckError(
            f"{out} already holds something. Continue a run with `limbeck resume {out}`, or give another --out."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LimbeckError(f"{out} cannot be made: {error.strerror}.") from error
    if not resume:
        _write(out / "job.yaml", job_text(job))
    return out


def _check_student(job: Job, material: Material, out: Path | None) -> None:
    """Build the student once before the teacher is paid for; the folder holds a valid student from here on."""
    student = new_model(job.student, material, seed=0)
    first = material.data.reads(material.train.take(torch.tensor([0, min(1, len(material.train) - 1)])))
    try:
        with torch.no_grad():
            student.eval()(first)
    except (RuntimeError, ValueError, TypeError) as error:
        shape = "x".join(map(str, material.input_shape))
        raise LimbeckError(f"The student {job.student.model} refuses inputs of shape {shape}: {error}") from error
    if out is not None and not (out / "student").exists():
        save(student, out / "student", metadata=metadata_of(job, "distilled", material))


def _judge_teacher(job: Job, teacher: Teacher, material: Material, watch: Watch) -> float:
    logits = ask(teacher, material.development, material)
    if not job.teacher.check:
        return measured(Predictions(logits, None, material.development.labels), ("accuracy",))["accuracy"]
    found = check_teacher(logits, material.development, classes=material.classes)
    watch("say", f"Teacher: {100 * found:.1f} % on development data (chance {100 / material.classes:.1f} %).")
    return found


def _outcomes(
    job: Job, material: Material, teacher: Teacher, answers: Tensor, out: Path | None, watch: Watch
) -> Iterator[Outcome]:
    runs = [
        ArmRun(
            job, arm, seed, _place(out, arm, seed), out / "student" if out and arm == "distilled" and not seed else None
        )
        for seed in range(job.seeds)
        for arm in job.arms
        if arm != "teacher"
    ]
    found = list(_kept(out))
    yield from found
    left = [run for run in runs if (run.arm, run.seed) not in {(o.arm, o.seed) for o in found}]
    for outcome in _run_all(left, job.workers, material, teacher, answers, watch):
        if out is not None:
            _append(out / "metrics.jsonl", outcome._asdict())
        yield outcome


def _run_all(
    runs: list[ArmRun], workers: int, material: Material, teacher: Teacher, answers: Tensor, watch: Watch
) -> Iterator[Outcome]:
    watch("plan", len(runs))
    if workers == 1 or len(runs) == 1:
        for run in runs:
            who = f"{run.arm}, seed {run.seed}"
            yield run_arm(run, material, teacher, answers, lambda report, who=who: watch("report", (who, report)))
        return
    from joblib import Parallel, delayed

    pool = Parallel(n_jobs=workers, return_as="generator_unordered")
    yield from pool(delayed(run_arm_in_process)(run, material, teacher, answers) for run in runs)


def _table(
    job: Job, material: Material, outcomes: list[Outcome], answers: Tensor, teachers: Mapping[str, nn.Module]
) -> dict[str, Any]:
    """Every arm's row: measures over seeds, and what it costs."""
    table: dict[str, Any] = {}
    sample = material.data.reads(material.data.test.take(torch.arange(min(64, len(material.data.test)))))
    for arm in job.arms:
        if arm == "teacher":
            own = Predictions(answers, answers, material.data.test.labels)
            rows, costs = [measured(own)], [cost_of(model, sample) for model in teachers.values()]
        else:
            rows = [o.measures for o in sorted(outcomes, key=lambda o: o.seed) if o.arm == arm]
            costs = [cost_of(new_model(job.student, material, seed=0), sample)]
        table[arm] = {
            **_summary(rows),
            "parameters": sum(c.parameters for c in costs),
            "megabytes": round(sum(c.megabytes for c in costs), 6),
            "milliseconds": round(sum(c.milliseconds for c in costs), 6),
        }
    return table


def _summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    measures = {name: _spread([row[name] for row in rows]) for name in rows[0]}
    return {
        "accuracy": measures["accuracy"],
        "nll": measures["nll"]["mean"],
        "agreement": measures["agreement"]["mean"],
        "measures": measures,
    }


def _spread(values: list[float]) -> dict[str, Any]:
    return {"mean": sum(values) / len(values), "std": spread(values), "values": values}


def _verdict(outcomes: list[Outcome]) -> dict[str, Any]:
    by_seed = {(o.arm, o.seed): o.measures["accuracy"] for o in outcomes}
    seeds = sorted({o.seed for o in outcomes})
    distilled = [by_seed["distilled", seed] for seed in seeds]
    if ("student alone", seeds[0]) not in by_seed:
        said = "No verdict: without the arm 'student alone' there is nothing to compare with."
        return {"difference": None, "interval": None, "helps": None, "sentence": said, "against": {}}
    verdict = judge(distilled, [by_seed["student alone", seed] for seed in seeds])
    against = {}
    if ("label smoothing", seeds[0]) in by_seed:
        rival = [by_seed["label smoothing", seed] for seed in seeds]
        against["label smoothing"] = judge(distilled, rival, rival="label smoothing").as_dict()
    return {**verdict.as_dict(), "against": against}


def _described(material: Material) -> str:
    data = material.data
    return (
        f"Data: {data.name}, {len(material.train):,} to learn from, {len(material.development):,} for development, "
        f"{len(data.test):,} to test, {material.classes} classes."
    )


def _place(out: Path | None, arm: str, seed: int) -> Path | None:
    return out / "arms" / arm.replace(" ", "-") / f"seed-{seed}" if out is not None else None


def _kept(out: Path | None) -> Iterator[Outcome]:
    """The outcomes that an earlier, interrupted go has written."""
    path = out / "metrics.jsonl" if out is not None else None
    if path is None or not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield Outcome(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue  # the line that was being written when it was killed


def _append(path: Path, line: Mapping[str, Any]) -> None:
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    with open(path, "a", encoding="utf-8") as opened:
        opened.write(("" if before.endswith("\n") or not before else "\n") + json.dumps(line) + "\n")


def _write(path: Path, text: str) -> None:
    import os

    beside = path.with_name(path.name + ".partial")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
