"""Sections with the protocol, what is not known, and the next commands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from limbeck.checksums import has_checksum
from limbeck.errors import LimbeckError
from limbeck.job import (
    RunLayout,
    describe_arm_budgets,
    export_options,
    format_steps,
    join_statements,
    model_to_build,
    opening_code,
    read_job,
    read_suggestions,
    shared_path,
    trust_option,
    unit_statements,
)
from limbeck.models import UserFile
from limbeck.report.html import Markup, details, join, note, prose, section, table, tag
from limbeck.report.run_data import RunData
from limbeck.report.summary import recommended_student, student_folder
from limbeck.report.training import describe_search

_LARGE = 200_000_000


def protocol_section(run: RunData, *, prefix: str = "") -> Markup:
    """Return seeds, data, budget, versions, file hashes and the job file."""
    facts = table("Protocol", ("what", "value"), list(_facts(run)), words=2, class_="facts")
    surroundings = table("Environment", ("what", "value"), list(_environment(run)), words=2, class_="facts")
    files = table("Files (SHA-256)", ("file", "SHA-256"), list(_hashes(run.folder)), words=2, class_="facts")
    job = details("The job file (job.yaml)", tag("pre", tag("code", run.job_text), tabindex="0"))
    return section(
        f"{prefix}protocol", "Protocol and environment", tag("div", facts, join(surroundings, files), class_="grid-2"),
        job if run.job_text else note("The job is not known, because the folder has no job.yaml."),
    )  # fmt: skip


def next_section(run: RunData) -> Markup:
    """Return commands to type next."""
    rows = list(_commands(run))
    return section("next", "Next commands",
                   tag("dl", ((tag("dt", why), tag("dd", tag("code", command))) for why, command in rows),
                       class_="commands"))  # fmt: skip


def unknown_section(run: RunData, *, prefix: str = "") -> Markup | None:
    """Return what is not known about the run."""
    missing = list(run.unknown)
    if run.seeds < 2:
        missing.append("There is a single seed, so there are no intervals.")
    if run.arms and not any(arm.development.values for arm in run.arms.values()):
        missing.append(f"The {run.score.title} on development data was not saved in this result.")
    for name in ("teacher", "student alone", "label smoothing", "shuffled teacher"):
        if name == "label smoothing" and run.task.no_smoothing is not None:
            continue
        if name not in run.arms:
            missing.append(f"The arm '{name}' was not run.")
    title = run.score.title
    if run.score.examples == "prompts":
        missing.append("The prompts have no answers, so whether the teacher's texts are right is not known.")
    missing.append(
        f"{title[:1].upper()}{title[1:]} on {run.score.examples} that differ from the test data was not measured."
    )
    return section(
        f"{prefix}unknown", "What is not known", tag("ul", (tag("li", prose(sentence)) for sentence in missing))
    )


def _facts(run: RunData) -> Iterator[tuple[str, str | Markup]]:
    data, job = run.data, run.job
    yield "data", str(data.get("name", "-"))
    yield "task", run.task.title
    rows = run.task.row_title
    for key, label in (("train", f"training {rows}"), ("development", f"development {rows}"),
                       ("test", f"test {rows}"), ("classes", run.task.output_title)):  # fmt: skip
        if isinstance(data.get(key), int):
            yield label, f"{data[key]:,}"
    shares = data.get("most_frequent")
    for key, share in shares.items() if isinstance(shares, Mapping) else ():
        if isinstance(share, float):
            yield (
                f"most frequent class, {key}",
                f"{100 * share:.1f} % of the examples, the accuracy of always predicting it",
            )
    yield "seeds", f"{run.seeds}, the same for every arm (pairs)"
    yield (
        "methods",
        "; ".join(_plain(arm.row.get("method")) for arm in run.arms.values() if arm.row.get("method"))
        or (_plain(run.result.get("method"))),
    )
    for key in ("teacher", "student", "budget"):
        if key in job:
            yield key, _plain(_without_defaults(job[key]) if key == "teacher" else job[key])
    made = run.result.get("student")
    if isinstance(made, Mapping):
        yield "student's start", str(made.get("sentence", "-"))
    seen = run.result.get("teacher_may_have_seen")
    if isinstance(seen, Mapping):
        yield "teacher's own data", str(seen.get("sentence", "-"))
    yield from _effort(run)
    yield "settings", prose(describe_search(run))
    yield "selection", "settings and method on development data; test data used once; numbers of the last epoch"
    seconds = run.result.get("seconds")
    if isinstance(seconds, (int, float)):
        yield "total time", f"{seconds:,.0f} s"


def _effort(run: RunData) -> Iterator[tuple[str, str]]:
    """Yield the budgets that differ between arms, and the number of optimizer steps."""
    rows, budgets = {name: arm.row for name, arm in run.arms.items()}, run.job.get("budgets")
    own = describe_arm_budgets(budgets, rows) if isinstance(budgets, Mapping) else {}
    yield from ((f"budget of {name}", f"{text}; otherwise as above") for name, text in own.items())
    steps = format_steps(rows)
    if steps is not None:
        yield "optimizer steps", steps


def _environment(run: RunData) -> Iterator[tuple[str, str]]:
    environment = run.result.get("environment")
    if not isinstance(environment, Mapping):
        yield "environment", "not saved in this result"
        return
    for key, value in environment.items():
        if isinstance(value, Mapping):
            yield from ((str(name), str(version)) for name, version in value.items())
        else:
            yield str(key), "none" if value is None else str(value)


def _hashes(folder: Path) -> Iterator[tuple[str, Markup | str]]:
    if not has_checksum(RunLayout(folder).result):
        yield "checksums", "none: this run is from an earlier version, so damage to its files is not detected"
    for name in ("job.yaml", "result.json", "student/model.safetensors", "teacher/answers.safetensors"):
        path = folder / name
        if path.is_file() and path.stat().st_size <= _LARGE:
            yield name, tag("code", hashlib.sha256(path.read_bytes()).hexdigest())


def _commands(run: RunData) -> Iterator[tuple[str, str]]:
    folder = quote(str(run.folder))
    arm, _ = recommended_student(run)
    command = "compare" if run.job.get("methods") else "distill"
    # The commands of the suggestions are at the top of the page.
    if run.seeds < 2 and not read_suggestions(run.result, run.folder):
        yield "get intervals", f"limbeck {command} {folder}/job.yaml --seeds 5 --out {folder}-5-seeds"
    if arm is not None and (student := student_folder(run, arm)).is_dir():
        whose = "" if arm == run.shipped_arm else f" --arm {quote(arm)}"
        yield "export the student", f"limbeck export {folder}{whose} {export_options(student, run.folder)}"
        yield "open it in Python", _loading_code(run, student)
    yield "cite what was used", f"limbeck cite {folder}{trust_option(run.folder)}"
    yield "repeat the run", f"limbeck {command} {folder}/job.yaml --out {folder}-again"
    yield "write this page again", f"limbeck report {folder}"


def _loading_code(run: RunData, student: Path) -> str:
    """Return the line of Python that opens a student, with the user's function if the job names one."""
    model = model_to_build(read_job(RunLayout(run.folder).job))
    try:
        own, file = UserFile.parse(str(model.get("model"))), None
        if own is not None:
            model["model"], file = f"{shared_path(own.file)}:{own.function}", own.file
        path_text = shared_path(student)
        opening = opening_code(student, model, path=path_text, place=run.folder, file=file)
        return join_statements([*opening, *unit_statements(student, path=path_text)])
    except LimbeckError as error:
        return f"# {error}"


_UNSET: tuple[Any, ...] = (None, {}, [])
"""Values of settings that say nothing."""


def _without_defaults(teacher: Any) -> Any:
    """A teacher's settings without those that have no meaning for a single model."""
    if not isinstance(teacher, Mapping) or teacher.get("ensemble") or teacher.get("members", 1) != 1:
        return teacher
    return {key: value for key, value in teacher.items() if key not in ("ensemble", "mean", "members")}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        name = value.get("name") or value.get("model")
        rest = [f"{key} {_inner(item)}" for key, item in value.items() if item not in _UNSET and item != name]
        return ", ".join([*([str(name)] if name else []), *rest])
    return str(value) if value is not None else "-"


def _inner(value: Any) -> str:
    """A value inside of a setting in words: ``(epochs 3, lr 0.01)`` for a mapping, without what is not set."""
    if isinstance(value, Mapping):
        return f"({', '.join(f'{key} {_inner(item)}' for key, item in value.items() if item not in _UNSET)})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_inner, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
