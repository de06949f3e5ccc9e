"""Jobs on prompts without answers: the teacher writes the texts, and students are compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from limbeck.compare.arm_recipes import TEXTS
from limbeck.compare.language import compares_texts, open_own_tokenizer, read_limit
from limbeck.compare.trackers import is_rank_zero
from limbeck.data import find_prompt_files
from limbeck.engine import open_fabric
from limbeck.errors import DataError, LimbeckError
from limbeck.events import Callback, Message
from limbeck.generated_texts import (
    DecodingOptions,
    ModelWriter,
    ServedWriter,
    TextPrompt,
    TextWriter,
    generate_texts,
    read_prompts,
)
from limbeck.generation import GenerationConfig
from limbeck.job import Job, TeacherSettings
from limbeck.job.schema import DEFAULT_ARMS
from limbeck.job.settings import TaskSettings
from limbeck.methods import method
from limbeck.models import open_model
from limbeck.models.hf_heads import LANGUAGE_MODELING

_LONGEST = 64
_NAMES = {"name": "train", "val": "val", "test": "test"}
_LIMITS = (
    "The prompts have no answers: students are judged by their KL divergence from the teacher at the tokens of texts "
    "that it wrote for held-out prompts. Whether these texts are right is not measured."
)
_SERVER = ("api_key_env", "concurrency", "timeout", "retries")


def answer_prompts(job: Job, callback: Callback, *, folder: Path | None = None, most: int | None = None) -> Job:
    """Let the teacher of a job write a text for each prompt, if the data are prompts without answers.

    The texts are drawn from the teacher's distribution at temperature 1, one for each prompt. So the mean KL divergence
    at their tokens is that of whole texts, and learning them is sequence-level distillation. They lie in a folder
    beside the job's, with all that `limbeck.generated_texts.generate_texts` records: the same job continues after an
    interruption, and pays for each text once.

    Args:
        job: The job.
        callback: Gets a message for each file.
        folder: The folder of the texts; by default that of the job with ``-texts`` at the end.
        most: The number of prompts of each file that are answered; None for all.

    Returns:
        The job on these texts, judged by the divergence from the teacher; the same job if its data have answers.

    Raises:
        LimbeckError: If the teacher cannot write, or cannot be compared with token by token.
    """
    options = _data_options(job)
    files = _find_files(job)
    if files is None:
        return job
    _check(job)
    _check_length(job, options.get("max_length"))
    place = _find_folder(job) if folder is None else folder
    if is_rank_zero(job):
        writer = _open_writer(job.teacher, _count_new_tokens(job, options))
        for option, file in files.items():
            prompts = _read(file, _NAMES[option], options)[:most]
            summary = generate_texts(writer, prompts, _text_file(place, option), samples=1)
            few = f"; {summary.texts - summary.kept:,} are empty and left out" * (summary.kept < summary.texts)
            callback(Message(
                f"Prompts without answers: {job.teacher.title} has written {summary.texts:,} texts for the prompts of "
                f"{Path(file).name}, of which {summary.cut_off:,} were cut off{few}."
            ))  # fmt: skip
    open_fabric(precision=job.precision, devices=job.devices, strategy=job.strategy).barrier()
    callback(Message(_LIMITS))
    return _change(job, {option: str(_text_file(place, option)) for option in files}, options)


def _check(job: Job) -> None:
    teacher = job.teacher
    if not teacher.has_weights:
        raise LimbeckError(
            "The prompts of the data have no answers, so there is nothing from which a teacher could be trained: name "
            "a trained one, such as --teacher hf:FOLDER. If a column has the answers: --set data.completion=COLUMN."
        )
    if teacher.ensemble:
        raise LimbeckError(
            "The prompts of the data have no answers, and texts are written by one teacher. Let one write them first: "
            "limbeck generate."
        )
    if teacher.url is not None and teacher.arguments.get("top_k", 0) is not None:
        raise LimbeckError(
            "The prompts of the data have no answers, so students are judged by their divergence from the teacher, and "
            "a server that lists some tokens tells only a lower bound. Let it list all (--set teacher.top_k=null), "
            "or let it write texts (limbeck generate), which the students then learn and are judged by."
        )
    if compares_texts(job):
        raise LimbeckError(
            "The prompts of the data have no answers, so students are judged by their divergence from the teacher, "
            "token by token, and uld and alm are for teachers with other tokens. Let the teacher write the texts "
            "first: limbeck generate."
        )


def _check_length(job: Job, length: int | None) -> None:
    """Refuse windows that a model cannot read before the teacher writes, which may take long or cost money."""
    most = read_limit(job)
    if length is not None and most is not None and length > most:
        raise LimbeckError(
            f"The teacher or the student reads at most {most:,} tokens at a time, and data.max_length is {length:,}: "
            f"type --set data.max_length={most}."
        )


def _find_folder(job: Job) -> Path:
    if job.out is None:
        raise LimbeckError("The teacher writes texts for prompts without answers, and they need a folder: out=...")
    out = Path(job.out)
    return out.with_name(f"{out.name}-texts")


def _text_file(folder: Path, option: str) -> Path:
    return folder / f"{_NAMES[option]}.jsonl"


def _count_new_tokens(job: Job, options: Mapping[str, Any]) -> int:
    """The largest number of new tokens: the data's, or the largest of the methods, or 64."""
    if options.get("max_new_tokens") is not None:
        return int(options["max_new_tokens"])
    methods = ({**method(one.name).defaults, **one.hyper} for one in job.method_arms.values())
    return max((int(values["max_new_tokens"]) for values in methods if "max_new_tokens" in values), default=_LONGEST)


def _read(file: str, part: str, options: Mapping[str, Any]) -> list[TextPrompt]:
    """The prompts of a file, with ids that no other part has, so that their draws differ."""
    prompts = read_prompts(file, prompt=options.get("prompt") or "prompt", charset=options.get("charset"))
    if answered := next((one for one in prompts if one.reference is not None), None):
        raise DataError(
            f"{file}: the prompt {answered.id!r} has an answer, and the first one has none. Give all of them answers, "
            "or none."
        )
    return [one._replace(id=f"{part} {one.id}") for one in prompts]


def _open_writer(teacher: TeacherSettings, max_new_tokens: int) -> TextWriter:
    options = DecodingOptions(GenerationConfig(max_new_tokens=max_new_tokens, temperature=1.0))
    if teacher.url is not None:
        own = {name: value for name, value in teacher.arguments.items() if name in _SERVER}
        return ServedWriter(teacher.url, teacher.served_model, options=options, **own)
    tokenizer = open_own_tokenizer(teacher)
    if tokenizer is None:
        raise LimbeckError(
            f"The teacher {teacher.title} writes the texts, and there is no tokenizer beside it. Save it there, or let "
            "it write first: limbeck generate --tokenizer FOLDER."
        )
    network = open_model(teacher.model, head=LANGUAGE_MODELING, tokenizer=tokenizer, **teacher.arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ModelWriter(network.to(device).eval(), tokenizer, options=options, name=teacher.title)


def _change(job: Job, files: Mapping[str, str], options: Mapping[str, Any]) -> Job:
    """The job on the written texts."""
    kept = {name: value for name, value in options.items() if name not in ("prompt", "max_new_tokens")}
    settings = {} if job.task is None else job.task.settings
    task = TaskSettings(name="language_modeling", **{**settings, "written_by_teacher": True})
    arms = job.arms
    if arms == DEFAULT_ARMS and not _learns_texts(job):
        arms = (*arms[:-1], TEXTS, arms[-1])
    return job.model_copy(update={"data": {**kept, **files}, "task": task, "arms": arms})


def compares_written_texts(job: Job) -> bool:
    """Whether a comparison has the arm of the teacher's texts by default: for prompts alone, if no method is that."""
    return _find_files(job) is not None and not _learns_texts(job)


def _find_files(job: Job) -> dict[str, str] | None:
    return find_prompt_files(_data_options(job), task=None if job.task is None else job.task.name)


def _data_options(job: Job) -> dict[str, Any]:
    return dict(job.data) if isinstance(job.data, dict) else {"name": job.data}


def _learns_texts(job: Job) -> bool:
    return any(one.name == "supervised" and not one.hyper for one in job.method_arms.values())
