"""How the run was done, and what to type next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from limbeck.checksums import has_checksum
from limbeck.errors import LimbeckError
from limbeck.job import (
    describe_arm_budgets,
    format_steps,
    join_statements,
    opening_code,
    read_job,
    read_suggestions,
    shared_path,
)
from limbeck.job.result import RESULT
from limbeck.models import UserFile
from limbeck.report.html import details, grid, note, prose, section, table
from limbeck.report.markup import Markup, join, tag
from limbeck.report.predictions import recommended_student, student_folder
from limbeck.report.run_data import RunData
from limbeck.report.sections.search import chosen_how

_LARGE = 200_000_000


def protocol_section(evidence: RunData, *, prefix: str = "") -> Markup:
    """Seeds, data, budget, versions, hashes, the job itself; and the commands that follow from it."""
    facts = table("Protocol", ("what", "value"), list(_facts(evidence)), words=2, class_="facts")
    surroundings = table("Environment", ("what", "value"), list(_surroundings(evidence)), words=2, class_="facts")
    files = table("Files (SHA-256)", ("file", "SHA-256"), list(_hashes(evidence.folder)), words=2, class_="facts")
    job = details("The job, to run it again (job.yaml)", tag("pre", tag("code", evidence.job_text), tabindex="0"))
    return section(
        f"{prefix}protocol", "Protocol and environment", grid(facts, join(surroundings, files)),
        job if evidence.job_text else note("The job is not known: there is no job.yaml in the folder."),
    )  # fmt: skip


def next_section(evidence: RunData, *, prefix: str = "") -> Markup:
    """What to type next."""
    rows = list(_commands(evidence))
    return section(f"{prefix}next", "What to type next",
                   tag("dl", ((tag("dt", why), tag("dd", tag("code", command))) for why, command in rows),
                       class_="commands"))  # fmt: skip


def unknown_section(evidence: RunData, *, prefix: str = "") -> Markup | None:
    """What this page cannot say."""
    missing = list(evidence.unknown)
    if evidence.seeds < 2:
        missing.append("One seed: intervals are withheld, as one run says nothing of the next.")
    if evidence.arms and not any(arm.development.values for arm in evidence.arms.values()):
        missing.append("How the arms did on development data was not kept in this result.")
    for name in ("teacher", "student alone", "label smoothing", "shuffled teacher"):
        if name not in evidence.arms:
            missing.append(f"The arm '{name}' was not run, so nothing is said of it.")
    missing.append("How the student does on examples of another kind than the test data was not measured.")
    return section(f"{prefix}unknown", "What is not known", tag("ul", (tag("li", prose(one)) for one in missing)))


def _facts(evidence: RunData) -> Iterator[tuple[str, str | Markup]]:
    data, job = evidence.data, evidence.job
    yield "data", str(data.get("name", "-"))
    for key, label in (("train", "training examples"), ("development", "development examples"),
                       ("test", "test examples"), ("classes", "classes")):  # fmt: skip
        if isinstance(data.get(key), int):
            yield label, f"{data[key]:,}"
    shares = data.get("most_frequent")
    for key, share in shares.items() if isinstance(shares, Mapping) else ():
        if isinstance(share, float):
            yield f"most frequent class, {key}", f"{100 * share:.1f} % of the examples: what always answering it gets"
    yield "seeds", f"{evidence.seeds}, the same for every arm (pairs)"
    yield (
        "methods",
        "; ".join(_plain(arm.row.get("method")) for arm in evidence.arms.values() if arm.row.get("method"))
        or (_plain(evidence.result.get("method"))),
    )
    for key in ("teacher", "student", "budget"):
        if key in job:
            yield key, _plain(job[key])
    seen = evidence.result.get("teacher_may_have_seen")
    if isinstance(seen, Mapping):
        yield "teacher's own data", str(seen.get("sentence", "-"))
    yield from _effort(evidence)
    yield "settings", prose(chosen_how(evidence))
    yield "selection", "settings and method on development data; the test data once; numbers are of the last epoch"
    seconds = evidence.result.get("seconds")
    if isinstance(seconds, (int, float)):
        yield "time in all", f"{seconds:,.0f} s"


def _effort(evidence: RunData) -> Iterator[tuple[str, str]]:
    """What an arm has in place of the budget, and for how many steps each arm learnt."""
    rows, budgets = {name: arm.row for name, arm in evidence.arms.items()}, evidence.job.get("budgets")
    own = describe_arm_budgets(budgets, rows) if isinstance(budgets, Mapping) else {}
    yield from ((f"budget of {name}", f"{said}; else as above") for name, said in own.items())
    steps = format_steps(rows)
    if steps is not None:
        yield "optimizer steps", steps


def _surroundings(evidence: RunData) -> Iterator[tuple[str, str]]:
    found = evidence.result.get("environment")
    if not isinstance(found, Mapping):
        yield "environment", "not kept in this result"
        return
    for key, value in found.items():
        if isinstance(value, Mapping):
            yield from ((str(name), str(version)) for name, version in value.items())
        else:
            yield str(key), "none" if value is None else str(value)


def _hashes(folder: Path) -> Iterator[tuple[str, Markup | str]]:
    if not has_checksum(folder / RESULT):
        yield "checked", "no: this run's files hold no checksums (an earlier version's), so damage goes unnoticed"
    for name in ("job.yaml", "result.json", "student/model.safetensors", "teacher/answers.safetensors"):
        path = folder / name
        if path.is_file() and path.stat().st_size <= _LARGE:
            yield name, tag("code", hashlib.sha256(path.read_bytes()).hexdigest())


def _commands(evidence: RunData) -> Iterator[tuple[str, str]]:
    folder = quote(str(evidence.folder))
    arm, _ = recommended_student(evidence)
    command = "compare" if evidence.job.get("methods") else "distill"
    suggested = [one for one in read_suggestions(evidence.result, evidence.folder) if one["type"]]
    yield from ((one["why"] or "", one["type"] or "") for one in suggested)
    if evidence.seeds < 2 and not suggested:
        yield "be sure of it", f"limbeck {command} {folder}/job.yaml --seeds 5 --out NEW"
    if arm is not None and (student := student_folder(evidence, arm)).is_dir():
        whose = "" if arm == evidence.shipped_arm else f" --arm {quote(arm)}"
        yield "ship it", f"limbeck export {folder}{whose} --to onnx"
        yield "open it in Python", _opened(evidence, student)
    yield "cite what was used", f"limbeck cite {folder}"
    yield "do it again elsewhere", f"limbeck {command} {folder}/job.yaml --out NEW"
    yield "make this page again", f"limbeck report {folder}"


def _opened(evidence: RunData, student: Path) -> str:
    """The line of Python that opens a student; a class of the person's own by the function that the job names."""
    asked = read_job(evidence.folder / "job.yaml").get("student")
    model = dict(asked) if isinstance(asked, Mapping) else {"model": asked}
    try:
        own, file = UserFile.parse(str(model.get("model"))), None
        if own is not None:
            model["model"], file = f"{shared_path(own.file)}:{own.function}", own.file
        shown = shared_path(student)
        return join_statements(opening_code(student, model, path=shown, place=evidence.folder, file=file))
    except LimbeckError as error:
        return f"# {error}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        name = value.get("name") or value.get("model")
        rest = [f"{key} {_inner(one)}" for key, one in value.items() if one is not None and one != name]
        return ", ".join([*([str(name)] if name else []), *rest])
    return str(value) if value is not None else "-"


def _inner(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
