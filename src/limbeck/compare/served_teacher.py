"""A teacher behind a server as the teacher of a job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from limbeck.compare.comparison_data import ComparisonData, is_language
from limbeck.compare.language import align_served, compares_texts
from limbeck.data import open_tokenizer
from limbeck.errors import LimbeckError
from limbeck.job import Job, RunLayout, TeacherSettings, add_flag_hint
from limbeck.job.settings import SERVED
from limbeck.models.arguments import check_arguments
from limbeck.teachers import AlignedTeacher, ServedTeacher, Teacher
from limbeck.teachers.wrapper import walk_teachers


class ServedModule(nn.Module):
    """A place among the models of a job for a teacher that is not here.

    Args:
        teacher: The teacher.
    """

    def __init__(self, teacher: ServedTeacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, *args: Any, **inputs: Any) -> Tensor:
        """There is nothing to call.

        Raises:
            LimbeckError: Always.
        """
        raise LimbeckError("The teacher is served, and only its scores of texts are here: it cannot be run.")


def is_served(models: Mapping[str, nn.Module]) -> bool:
    """Whether a job's teacher is behind a server."""
    return any(isinstance(model, ServedModule) for model in models.values())


def open_served(
    job: Job, part: TeacherSettings, material: ComparisonData, student: nn.Module
) -> tuple[ServedTeacher | AlignedTeacher, ServedModule]:
    """Open a served teacher, in the vocabulary of the student.

    Args:
        job: The job.
        part: The settings of the teacher.
        material: The data.
        student: The student, for the number of its outputs.

    Raises:
        LimbeckError: If the job is not about language models, an argument is unknown, or the vocabularies differ.
    """
    if not is_language(material.task):
        raise LimbeckError(
            f"The teacher {part.title} is served, and a server scores texts only; this is a job of "
            f"{material.task.name}. For texts, type --task language_modeling."
        )
    if compares_texts(job):
        raise LimbeckError(
            f"uld and alm read all logits of the teacher's own tokens, and {part.title} is behind a server, which "
            "lists some. Load the teacher, or write texts with it: limbeck generate."
        )
    without = ("url", "model", "scores_folder")
    try:
        arguments = check_arguments("A served teacher", ServedTeacher, part.arguments, without=without)
        tokenizer = arguments.pop("tokenizer", None)
        own = material.data.tokenizer if tokenizer is None else open_tokenizer(tokenizer)
        teacher = ServedTeacher(
            str(part.url), part.served_model, tokenizer=own, scores_folder=_scores_folder(job), **arguments
        )
    except LimbeckError as error:
        raise add_flag_hint(error, "teacher") from error
    return align_served(teacher, material.train, student), ServedModule(teacher)


def _scores_folder(job: Job) -> str | None:
    """Where the scores of evaluated texts are kept: beside the cache of the job; None if it has no folder here."""
    named = None if job.cache is None else job.cache.folder
    if named is None and job.out is None:
        return None
    cache = str(RunLayout(Path(job.out or "")).cache) if named is None else named
    return None if "://" in cache else f"{cache.rstrip('/')}-evaluation"


def find_served(teacher: Teacher) -> ServedTeacher | None:
    """The served teacher within a job's teacher; None if it is not served."""
    inner = teacher.inner if isinstance(teacher, AlignedTeacher) else teacher
    return inner if isinstance(inner, ServedTeacher) else None


def name_served(job: Job, teacher: Teacher) -> Job:
    """The job with the name that the model has at its server, so that stored outputs are found without it."""
    served = find_served(teacher)
    if served is None or job.teacher.served_model is not None:
        return job
    return job.model_copy(update={"teacher": job.teacher.model_copy(update={"model": f"{SERVED}{served.model}"})})


def describe_served(teacher: Teacher) -> str | None:
    """What servers tell and what they do not, in sentences; None if no teacher is served."""
    every = [one for one in walk_teachers(teacher) if isinstance(one, ServedTeacher)]
    return " ".join(map(_describe_one, every)) or None


def _describe_one(served: ServedTeacher) -> str:
    if served.top_k is None:
        listed = "It lists all tokens."
    else:
        mass = served.mass_outside
        outside = "" if mass is None else f", which have {100 * mass:.3g} % of the probability"
        listed = (
            f"It lists {served.top_k} of {served.count_classes(served.tokenizer):,} tokens at temperature 1. The others"
            f"{outside}, are one class, so divergences are lower bounds, and its entropy is not known."
        )
    return " ".join((f"The model {served.model!r} is served.", listed, *served.notes))


def listed_outside(teacher: Teacher) -> float | None:
    """The mean probability of the tokens that a served teacher does not list; None if there are none."""
    served = find_served(teacher)
    return None if served is None or served.top_k is None else served.mass_outside


def describe_row(teacher: Teacher) -> dict[str, Any]:
    """The entries of a served teacher's row; empty for other teachers."""
    note = describe_served(teacher)
    if note is None:
        return {}
    served = find_served(teacher)
    listed = None if served is None or served.top_k is None else {"top_k": served.top_k, "outside": served.mass_outside}
    return {
        "parameters": None, "megabytes": None, "milliseconds": None, "listed": listed,
        "size_note": f"{note.rstrip('.')}. Its size and its time are not known",
    }  # fmt: skip
