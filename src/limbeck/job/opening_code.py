"""Python code that opens a student."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError
from limbeck.job.config_io import make_job, read_job
from limbeck.job.run_layout import RunLayout, shared_path
from limbeck.job.settings import SHALLOW, SHRINK, TeacherSettings
from limbeck.job.student_settings import StudentSettings
from limbeck.models import UserFile, loads_without_code, read_config
from limbeck.teachers.estimators import SAVED_ESTIMATOR

_WIDTH = 80


def opening_code(
    student: Path, model: Mapping[str, Any], *, path: str, place: Path | None = None, file: Path | None = None
) -> list[str]:
    """Python statements that end in ``student = limbeck.load(...)``; of an estimator, in ``joblib.load(...)``.

    Args:
        student: The student's folder.
        model: The job's student: ``model``, and the arguments that it is built with.
        path: The student's folder as it appears in the code.
        file: The current path of the user's model file, if the path in `model` is outdated.
        place: The run's folder, for a student of several models, which only the run's job can build again.

    Raises:
        DataError: If the folder is not a student's.
    """
    if (student / SAVED_ESTIMATOR).is_file():
        return ["import joblib", f"student = joblib.load({str(Path(path) / SAVED_ESTIMATOR)!r})"]
    config = read_config(student)
    if loads_without_code(config):
        return ["import limbeck", f"student = limbeck.load({path!r})"]
    metadata = config.get("metadata") or {}
    if metadata.get("ships"):
        arm = f", arm={metadata['arm']!r}" if place is not None and student.parent != place else ""
        run = place or student.parent
        trust = ", trust=True" if _names_files(run) else ""
        return [
            "import limbeck",
            f"student = limbeck.export.open_student({shared_path(run)!r}{arm}{trust})",
        ]
    arguments = {key: value for key, value in model.items() if key != "model"}
    imports, build = _builder(str(model.get("model")), arguments, metadata, file)
    return ["import limbeck", *imports, f"student = limbeck.load({path!r}, build={build})"]


def export_options(student: Path, run: Path) -> str:
    """The options of ``limbeck export`` for a student: its format, and ``--trust`` if opening it runs code.

    Args:
        student: The student's folder.
        run: The run's folder.
    """
    if (student / SAVED_ESTIMATOR).is_file():
        return "--to joblib --trust"
    try:
        runs_code = not loads_without_code(read_config(student)) and _names_files(run)
    except LimbeckError:
        runs_code = False
    return "--to onnx --trust" if runs_code else "--to onnx"


def trust_option(run: Path) -> str:
    """`` --trust`` for a command that reads a run whose job names Python files; else an empty text."""
    return " --trust" if _names_files(run) else ""


def model_to_build(job: Mapping[str, Any]) -> dict[str, Any]:
    """The model that a job's student is built from, with its arguments: the teacher, if it is made of the teacher.

    Args:
        job: The job as a mapping.

    Example:
        >>> model_to_build({"student": {"model": "shrink"}, "teacher": {"model": "my.py:build", "members": 1}})
        {'model': 'my.py:build'}
    """
    student = job.get("student")
    model = {"model": student} if isinstance(student, str) else dict(student or {})
    if model.get("model") not in (SHALLOW, SHRINK) and "from" not in model:
        return {key: value for key, value in model.items() if key == "model" or key not in StudentSettings.model_fields}
    teacher = job.get("teacher")
    settings = TeacherSettings.model_fields.keys() - {"model"}
    entries = {"model": teacher} if isinstance(teacher, str) else dict(teacher or {})
    return {key: value for key, value in entries.items() if key not in settings}


def _names_files(run: Path) -> bool:
    """Whether the job of a run names Python files, which `open_student` runs only if it is told to."""
    try:
        return make_job(read_job(RunLayout(run).job)).names_files
    except LimbeckError:
        return False


def unit_statements(student: Path, *, path: str) -> list[str]:
    """The statement that turns the standardized outputs of a regression into the unit of the targets; else empty.

    Args:
        student: The student's folder.
        path: The folder as it appears in the code.
    """
    if (student / SAVED_ESTIMATOR).is_file():
        return []  # it predicts in the unit of the targets
    task = (read_config(student).get("metadata") or {}).get("task") or {}
    if task.get("name") != "regression" or not task.get("mean"):
        return []
    return [f"estimates = limbeck.load_task({path!r}).keep(student(inputs))  # in the unit of the targets"]


def join_statements(statements: list[str]) -> str:
    """Join statements to one line."""
    return "; ".join(statements)


def wrap_statements(statements: list[str], width: int = _WIDTH) -> list[str]:
    """Statements as one line if it fits the width, else one line each; long statements are split after a comma."""
    if len(join_statements(statements)) <= width:
        return [join_statements(statements)]
    lines: list[str] = []
    for statement in statements:
        head, comma, rest = statement.partition(", build=")
        if len(statement) > width and comma:
            lines += [f"{head},", f"    build={rest}"]
        else:
            lines.append(statement)
    return lines


def _builder(
    name: str, arguments: dict[str, Any], metadata: Mapping[str, Any], file: Path | None
) -> tuple[list[str], str]:
    """Imports, and the expression that builds the module: the user's function if possible, else `open_model`."""
    shapes = {
        "input_shape": tuple(metadata["input_shape"]) if metadata.get("input_shape") else None,
        "classes": _classes(metadata),
    }
    shapes = {key: value for key, value in shapes.items() if value}
    try:
        own = UserFile.parse(name)
    except LimbeckError:
        own = None
    accepted = None if own is None else _accepted(file or own.file, own.function)
    if vocabulary := (metadata.get("task") or {}).get("vocabulary"):  # of a language model
        arguments = {**({"vocab_size": vocabulary} if accepted and "vocab_size" in accepted else {}), **arguments}
    if own is not None and accepted is not None and own.file.stem.isidentifier() and own.file.parent == Path():
        options = {**{key: value for key, value in shapes.items() if key in accepted}, **arguments}
        alias = "" if own.function == "build" else " as build"
        build = f"lambda: build({_typed(options)})" if options else "build"
        return [f"from {own.file.stem} import {own.function}{alias}"], build
    if own is not None:
        name = f"{shared_path(own.file)}:{own.function}"
    call_arguments = ", ".join(filter(None, [repr(name), _typed({**shapes, **arguments})]))
    return ["from limbeck.models import open_model"], f"lambda: open_model({call_arguments})"


def _accepted(file: Path, function: str) -> set[str] | None:
    """The arguments of a function, parsed from its file without running it; None if they cannot be determined."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == function and not node.decorator_list:
            if node.args.vararg or node.args.kwarg:
                return None
            return {arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)}
    return None


def _classes(metadata: Mapping[str, Any]) -> int | None:
    return metadata.get("classes") or len(metadata.get("class_names") or ()) or None


def _typed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())
