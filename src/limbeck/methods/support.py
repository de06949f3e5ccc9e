"""Building blocks of methods: argument checks, fresh copies of a model, losses by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, final

from torch import Tensor, nn

from limbeck import functional
from limbeck.data import AdaptiveShare, Replay, Rollouts
from limbeck.data.written_share import Share, check_written_share, read_adaptive_share
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.functional.kernel import declaration
from limbeck.generation import GenerationConfig
from limbeck.losses import Loss, Objective
from limbeck.model_call import Adaptor
from limbeck.models import UserFile, check_fresh, reinitialize
from limbeck.recipe import Models
from limbeck.schedule import Schedule, read_schedule
from limbeck.tap import get_adaptor
from limbeck.tasks import Task
from limbeck.teachers import (
    CachedTeacher,
    Ensemble,
    ModelTeacher,
    Teacher,
    TeacherRef,
    as_teacher,
    describe_preprocess,
    has_other_tokenizer,
    without_cache,
)


def check_share(**values: Any) -> None:
    """Check that all values are numbers from 0 to 1.

    Raises:
        LimbeckError: If a value is not; the message names the first one.

    Example:
        >>> check_share(weight=1.2)
        Traceback (most recent call last):
        ...
        limbeck.errors.ArgumentError: weight is a number from 0 to 1; got 1.2.
    """
    for name, value in values.items():
        if not (_is_number(value) and 0 <= value <= 1):
            raise ArgumentError(f"{name} is a number from 0 to 1; got {value!r}.", argument=name)


def read_share(name: str, value: Any) -> Share:
    """Make the share of written texts from an argument: a number, a schedule, an adaptive share, or the text of one.

    Raises:
        LimbeckError: If it is something else, or is not from 0 to 1.

    Example:
        >>> read_share("share", "ramp(1.0)")
        ramp(1.0, start=0.0, until=1.0)
    """
    try:
        adaptive = isinstance(value, str) and value.strip().startswith("adaptive")
        share = read_adaptive_share(value) if adaptive else read_schedule(value) if isinstance(value, str) else value
        check_written_share(name, share)
    except LimbeckError as error:
        raise ArgumentError(f"{name}: {error}", argument=name) from error
    return float(share) if isinstance(share, (int, float)) else share


def skip_at_zero(objective: Objective) -> Objective:
    """Mark new losses of plain kernels, so that they are not computed at steps where their weight is 0.

    A teacher that no other loss needs is not asked at these steps.
    """
    for leaf, _ in objective.leaves():
        leaf.skip_at_zero = True
    return objective


def check_loss_counts(*, weight: float, share: Share) -> None:
    """Check that a divergence, and the answers of given texts with the rest of its weight, do not both count nothing.

    Raises:
        ArgumentError: If the weight of the divergence is 0, and no batch has given texts.
    """
    if weight == 0 and share == 1:
        raise ArgumentError(
            "weight=0 leaves the learning of given answers alone, and with share=1 no batch has any: nothing would be "
            "learned. Raise weight, or lower share.",
            argument="weight",
        )


def check_weight(**values: Any) -> None:
    """Check that all values are finite numbers of at least 0.

    Raises:
        LimbeckError: If a value is not; the message names the first one.
    """
    for name, value in values.items():
        if not (_is_number(value) and value >= 0):
            raise ArgumentError(f"{name} is a finite number of at least 0; got {value!r}.", argument=name)


def check_count(**values: Any) -> None:
    """Check that all values are whole numbers of at least 1.

    Raises:
        LimbeckError: If a value is not; the message names the first one.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name} is a whole number of at least 1; got {value!r}.", argument=name)


def check_temperature(**values: Any) -> None:
    """Check that all values are temperatures: finite numbers above 0, whose squares exist in float32.

    Use it for temperatures with another name than ``temperature``; the message has the name.

    Raises:
        LimbeckError: If a value is not; the message names the first one.

    Example:
        >>> check_temperature(contrast_temperature=0.0)
        Traceback (most recent call last):
        ...
        limbeck.errors.ArgumentError: contrast_temperature is a finite number above 0; got 0.0.
    """
    for name, value in values.items():
        try:
            functional.check_hyper(temperature=value)
        except ArgumentError as error:
            kind = str(error).split(";")[0].removeprefix("temperature")
            raise ArgumentError(f"{name}{kind}; got {value!r}.", argument=name) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


@final
class FreshCopy:
    """Makes a newly initialized copy of a model of the run.

    The run calls `check` first, so that a model that cannot be copied is refused before the training starts.

    Args:
        of: The name of the model to copy.
    """

    def __init__(self, of: str = "student") -> None:
        self.of = of

    def __call__(self, models: Models) -> nn.Module:
        """Make the new model."""
        return reinitialize(models[self.of])

    def adaptor(self, models: Models) -> Adaptor | None:
        """Return the adaptor of the original model."""
        return get_adaptor(models, self.of)

    def check(self, models: Models) -> None:
        """Check that the model, if it exists already, can be newly initialized.

        Raises:
            LimbeckError: If one of its modules has no `reset_parameters`; the message names it.
        """
        if self.of in models:
            check_fresh(models[self.of])


def read_teachers(teacher: Any, method: str, *, least: int = 2) -> tuple[Teacher, tuple[str, ...]]:
    """Read an argument that holds several teachers.

    Args:
        teacher: An `Ensemble`, also with a cache; a mapping from names to teachers; or a list of teachers.
        method: The name of the method, for the message.
        least: The smallest number of teachers.

    Returns:
        The teacher of the stage, and the names of its members: their logits are at ``NAME.logits``.

    Raises:
        ArgumentError: If it is something else, or has fewer teachers.

    Example:
        >>> read_teachers({"old": nn.Linear(2, 3), "new": nn.Linear(2, 3)}, "rl_kd")[1]
        ('old', 'new')
    """
    if isinstance(teacher, Mapping):
        source: Teacher = Ensemble(*teacher.values(), member_names=[str(name) for name in teacher])
    else:
        source = Ensemble(*teacher) if isinstance(teacher, (list, tuple)) else as_teacher(teacher)
    try:
        members = find_ensemble(source).member_names
    except LimbeckError:
        members = ()
    if len(members) < least:
        kind = f"has {len(members)}" if members else f"is a {type(source).__name__}"
        raise ArgumentError(
            f"{method} learns from {least} teachers or more, and this {kind}. Pass Ensemble(a, b) or {{'a': a, 'b': b}}"
            "; in a job, type teachers: {a: ..., b: ...}.", argument="teacher",
        )  # fmt: skip
    return source, members


def find_ensemble(teacher: Teacher) -> Ensemble:
    """The ensemble that a teacher is, or that its cache is of.

    Raises:
        LimbeckError: If it is none.
    """
    while isinstance(teacher, CachedTeacher) and teacher.inner is not None:
        teacher = teacher.inner
    if not isinstance(teacher, Ensemble):
        raise LimbeckError(f"A {type(teacher).__name__} is not an ensemble.")
    return teacher


def check_reads_texts(teacher: Any, method: str) -> None:
    """Check that a teacher reads the student's texts in tokens of its own.

    A model by itself would be given the student's numbers of tokens, which are other tokens to it, and would answer
    with something.

    Args:
        teacher: Anything that `as_teacher` accepts.
        method: The name of the method, for the message.

    Raises:
        ArgumentError: If it does not.
    """
    live = as_teacher(teacher)
    if has_other_tokenizer(live) or (isinstance(live, CachedTeacher) and not live.teachers):
        return
    raise ArgumentError(
        f"{method} compares texts that teacher and student read in different tokens, and this {type(live).__name__} "
        f"would read the student's tokens as its own. Tell both tokenizers: {method}(lb.CrossTokenizerTeacher(teacher, "
        "student_tokenizer, teacher_tokenizer)). If the tokenizers are equal, use hinton or gkd.",
        argument="teacher",
    )


def add_label_loss(objective: Objective, task: Task, weight: float) -> Objective:
    """Add the loss of the task's labels or targets, with a weight.

    A weight of 0 leaves the term out, so that the data need no labels.

    Example:
        >>> from limbeck.functional import kl_divergence
        >>> from limbeck.tasks import get_task
        >>> add_label_loss(Loss(kl_divergence), get_task("classification"), 0.5)
        0.5 * Loss(cross_entropy) + Loss(kl_divergence)
    """
    return weight * task.supervised_loss() + objective if weight else objective


_SIDES = {"student", "teacher"}


def named_loss(name: str, *, temperature: float, classes: int = -1) -> Loss:
    """Make the loss of this name.

    Args:
        name: A function of `limbeck.functional` that compares the student with the teacher (``kl_divergence``,
            ``reverse_kl``, ``total_variation``, ...), or ``my.py:function``, a function declared with `kernel`.
        temperature: The temperature, for losses that have one.
        classes: Which dimension of the logits holds the classes.

    Raises:
        UnknownNameError: If there is no such loss. The message suggests the nearest name.
        LimbeckError: If your own function is not a kernel, or takes other tensors than student, teacher and labels.

    Example:
        >>> named_loss("reverse_kl", temperature=2.0)
        Loss(reverse_kl, temperature=2.0)
    """
    kernel = _load_kernel(name)
    takes = inspect.signature(kernel).parameters
    if not set(takes) >= _SIDES:
        raise ArgumentError(
            f"The loss {name} compares student and teacher; it takes {', '.join(takes)}.", argument="loss"
        )
    hyper: dict[str, Any] = {"temperature": temperature} if "temperature" in takes else {}
    return Loss(kernel, classes=classes, **hyper)


def _load_kernel(name: str) -> Callable[..., Tensor]:
    if (own := UserFile.parse(name)) is not None:
        return own.load()
    kernels = _available_losses()
    if name not in kernels:
        raise unknown_name_error(
            "loss", name, kernels, then="Or a function in your own file: my.py:function.", argument="loss"
        )
    return kernels[name]


def _available_losses() -> dict[str, Callable[..., Tensor]]:
    """Collect the kernels that compare student and teacher and need no setting except a temperature."""
    kernels: dict[str, Callable[..., Any]] = {}
    for name in functional.__all__:
        function = getattr(functional, name)
        if declaration(function, "per") != "position" or function is functional.state_squared_error:
            continue  # it compares hidden states, which have no classes
        parameters = inspect.signature(function).parameters.values()
        needed = {p.name for p in parameters if p.default is p.empty}
        if _SIDES <= needed <= {*_SIDES, "temperature"}:
            kernels[name] = function
    return kernels


def make_rollouts(
    teacher: Any,
    *,
    share: Share,
    writer: str,
    max_new_tokens: int,
    sampling_temperature: float,
    replay: int,
    replay_share: float | str | Schedule,
    teacher_share: float = 0.0,
) -> tuple[Rollouts, Any]:
    """Make the rollouts of an on-policy method, and find the teacher that can be asked about them.

    Args:
        teacher: Anything that `as_teacher` accepts.
        share: The share of the batches with written texts; see `read_share`.
        writer: ``student`` or ``teacher``.
        max_new_tokens: The largest number of tokens that are written.
        sampling_temperature: The temperature at which texts are written.
        replay: The number of texts that are kept; 0 for none.
        replay_share: The share of the batches of written texts that are drawn from those kept.
        teacher_share: The share of the teacher in the distribution from which each token is drawn.

    Returns:
        The rollouts, and the teacher without a cache of its outputs; for a share of 0 the teacher as it is.

    Raises:
        LimbeckError: If an argument is out of range, or the teacher is only a cache, or cannot write.
    """
    share, again = read_share("share", share), read_share("replay_share", replay_share)
    if isinstance(again, AdaptiveShare):
        raise ArgumentError("replay_share is a number or a schedule.", argument="replay_share")
    check_share(teacher_share=teacher_share)
    check_weight(sampling_temperature=sampling_temperature)
    check_count(max_new_tokens=max_new_tokens)
    if isinstance(replay, bool) or not isinstance(replay, int) or replay < 0:
        raise ArgumentError(f"replay is a number of texts, or 0 for none; got {replay!r}.", argument="replay")
    if writer not in ("student", "teacher"):
        raise ArgumentError(f"writer is 'student' or 'teacher'; got {writer!r}.", argument="writer")
    if teacher_share and writer == "teacher":
        raise ArgumentError(
            f"teacher_share={teacher_share} mixes the teacher into the student's texts, and writer=teacher has the "
            "teacher alone. Use one of them.",
            argument="teacher_share",
        )
    live = without_cache(as_teacher(teacher)) if share else teacher
    rollouts = Rollouts(
        share=share,
        writer="student"
        if writer == "student" or not share
        else _find_writer(live, "writer=teacher", "writer=student"),
        generation=GenerationConfig(max_new_tokens=max_new_tokens, temperature=sampling_temperature),
        replay=Replay(capacity=replay, share=again),
        mixed_in=_find_writer(live, f"teacher_share={teacher_share}", "teacher_share=0") if teacher_share else None,
        mixed_in_share=teacher_share,
    )
    return rollouts, live


def _find_writer(teacher: Teacher, asked: str, instead: str) -> str | nn.Module:
    if isinstance(teacher, ModelTeacher):
        if teacher.adaptor is not None or describe_preprocess(teacher.preprocess) is not None:
            raise LimbeckError(
                f"{asked} calls the teacher's model itself, and this one has a preprocess or adaptor of its own: let "
                f"its forward() do both, or let the student write, with {instead}."
            )
        return teacher.model
    if isinstance(teacher, TeacherRef):
        return teacher.name
    raise LimbeckError(
        f"{asked} needs a teacher that is one model with the student's tokens, and this is a {type(teacher).__name__}. "
        f"Let the student write, with {instead}, or write the texts before: limbeck generate --teacher ..."
    )
