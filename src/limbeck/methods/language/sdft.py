"""Self-distillation with a privileged context: the teacher is a model that sees the answer or a hint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from limbeck.errors import DataError
from limbeck.functional import check_hyper
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import make_rollouts, named_loss
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task
from limbeck.teachers import PrivilegedContextTeacher

CARD = MethodCard(
    name="sdft",
    title="Self-Distillation Enables Continual Learning",
    authors="Shenfeld, Damani, Hübotter and Agrawal",
    year=2026,
    arxiv="2601.19897",
    venue="arXiv",
    claim="The teacher is the student itself, or another model, with a longer prompt that holds a demonstration, the "
    "answer or a hint. The student learns to write as if it had read it, on texts that it writes without it.",
    when="When there are answers, hints or instructions that the student will not have later, and no better teacher. "
    "It works as far as the teacher uses its context: a model that does not get better by reading the hint has "
    "nothing to "
    'teach. teacher="student" is the model as it learns, MovingAverage(of="student") the slower average of the paper, '
    "and a copy the model as it was. A test here shows that a student learns a rule that its teacher only reads from "
    "its context. That old skills are forgotten less than with training on answers is the paper's claim for large "
    "models, and is not shown here.",
    bibtex="""@article{shenfeld2026selfdistillation,
  title = {Self-Distillation Enables Continual Learning},
  author = {Shenfeld, Idan and Damani, Mehul and H{\\"u}botter, Jonas and Agrawal, Pulkit},
  journal = {arXiv preprint arXiv:2601.19897},
  year = {2026}
}
@article{zhao2026selfdistilled,
  title = {Self-Distilled Reasoner: On-Policy Self-Distillation for Large Language Models},
  author = {Zhao, Siyan and Xie, Zhihui and Liu, Mengchen and Huang, Jing and Pang, Guan and Chen, Feiyu and
            Grover, Aditya},
  journal = {arXiv preprint arXiv:2601.18734},
  year = {2026}
}""",
    labels="unused",
    needs="tokens for each example that only the teacher reads, and prompts",
    ranges={"share": SearchRange(0.0, 1.0)},
    example={"max_new_tokens": 4},
    trials=("language",),
    tasks=("language_modeling",),
    task_reason="it is about prompts",
)


@validates_arguments
def sdft(
    teacher: Any,
    *,
    context: Any = "privileged",
    place: str = "before",
    by: str = "id",
    divergence: str = "reverse_kl",
    temperature: float = 1.0,
    share: float = 1.0,
    max_new_tokens: int = 64,
    sampling_temperature: float = 1.0,
    task: str | Task = "language_modeling",
    epochs: int | None = None,
) -> Recipe:
    r"""Minimize :math:`T^2 KL(q(y_t | x, y_{<t}) \| p(y_t | c, x, y_{<t}))` at the tokens that the student writes.

    x is the prompt, c the context that only the teacher reads, q the student and p the teacher. The teacher's row is
    built from the context, the prompt and the student's own text (`limbeck.teachers.PrivilegedContextTeacher`).

    Args:
        teacher: The teacher: a module, a `Teacher` such as `MovingAverage`, or the name of a model in the run:
            ``student`` for the model that learns.
        context: c, as token ids or text: the name of an extra column, a sequence or mapping by id, or a function of the
            batch; or a file of texts, ``.txt`` with a line for each text of the data, or ``.jsonl`` with a field
            ``context``.
        place: Where the context is: ``before`` the prompt, ``after`` it, or ``instead`` of it.
        by: The ids of a sequence or mapping: ``id`` or ``text_number``.
        divergence: A function of `limbeck.functional`: ``reverse_kl``, ``kl_divergence``, ``jensen_shannon``, ...
        temperature: T, above 0.
        share: The share of the batches with texts that the student writes, from 0 to 1; the others have the given
            texts.
        max_new_tokens: The largest number of tokens that are written; longer texts are cut off.
        sampling_temperature: The temperature at which texts are written; 0 takes the most likely tokens.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the teacher cannot be asked about new texts.

    Example:
        >>> stage = next(sdft("student", context={0: [5, 7]}).stages())
        >>> stage.teacher.describe()["of"]["name"], stage.objective
        ('student', Loss(reverse_kl, temperature=1.0))

    Source: Shenfeld, Damani, Hübotter and Agrawal, 2026, arXiv:2601.19897, section 3.
    """
    CARD.get_task(task)
    check_hyper(temperature=temperature)
    loss = named_loss(divergence, temperature=temperature)
    # Replayed texts have no columns of their own, so none are kept.
    rollouts, live = make_rollouts(
        teacher, share=share, writer="student", max_new_tokens=max_new_tokens,
        sampling_temperature=sampling_temperature, replay=0, replay_share=0.0,
    )  # fmt: skip
    if isinstance(context, str) and context.endswith((".txt", ".jsonl")):
        context, by = read_contexts(context), "text_number"
    reader = PrivilegedContextTeacher(live, context, place=place, by=by)
    return Recipe(Stage(loss, teacher=reader, loader=rollouts, epochs=epochs, name="sdft"))


def read_contexts(path: str) -> list[str]:
    """Read a text for each text of the data, in their order; the lines of a ``.jsonl`` may have other fields too.

    Raises:
        DataError: If the file cannot be read, or a line has no ``context``; the line is named.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The file of contexts {path!r} cannot be read: {error}.") from error
    if path.endswith(".txt"):
        return lines
    return [_read_line(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _read_line(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is no JSON: {error}.") from error
    if not isinstance(row, dict) or not isinstance(row.get("context"), str):
        raise DataError(f'{where} has no text "context", which only the teacher reads. An empty one is "".')
    text: str = row["context"]
    return text
