"""`TeacherWrapper`: the base class of teachers around others. `ShuffledTeacher`: the outputs of other examples."""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar, TypeVar, final

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Outputs
from limbeck.errors import LimbeckError
from limbeck.functional.output_layer import HiddenLogits
from limbeck.group_likelihoods import CrossTokenizerLogits, GroupLikelihoods
from limbeck.teachers.model import as_teacher
from limbeck.teachers.teacher import Teacher, TeacherCapabilities, TeacherContext, TeacherSession
from limbeck.top_k_logits import PartialLogits

Wrapper = TypeVar("Wrapper", bound="TeacherWrapper")


class TeacherWrapper(Teacher):
    """A teacher around others, which are in `teachers`: their names, capabilities and models are its own.

    Subclasses implement `open`, usually with a `WrapperSession` around `open_all`.

    Args:
        teachers: Each one anything that `as_teacher` accepts.
    """

    caches_within: ClassVar[bool] = False
    """Whether a cache must be within this teacher and not around it, as it changes the outputs for each student."""

    stored_as: ClassVar[str | None] = None
    """The only encoding that a cache around it can have; None for all that fit its outputs."""

    def __init__(self, *teachers: Any) -> None:
        self.teachers: tuple[Teacher, ...] = tuple(as_teacher(teacher) for teacher in teachers)

    @property
    def names(self) -> frozenset[str]:
        """The names of the models of all of them."""
        return frozenset().union(*(teacher.names for teacher in self.teachers))

    @property
    def capabilities(self) -> TeacherCapabilities:
        """The properties of the combined outputs."""
        every = [teacher.capabilities for teacher in self.teachers]
        return TeacherCapabilities(
            deterministic=all(one.deterministic for one in every),
            changes=any(one.changes for one in every),
            partial=any(one.partial for one in every),
            tokenizer=next((one.tokenizer for one in every if one.tokenizer is not None), None),
            gradients=bool(every) and all(one.gradients for one in every),
        )

    def resolve(self: Wrapper, models: Mapping[str, nn.Module]) -> Wrapper:
        """The same teacher around resolved ones; itself where none has names."""
        if not self.names:
            return self
        resolved = copy.copy(self)
        resolved.teachers = tuple(teacher.resolve(models) for teacher in self.teachers)
        return resolved

    def open_all(self, context: TeacherContext, *, requires: frozenset[str] | None = None) -> list[TeacherSession]:
        """A session of each of them, for the addresses of the context or, as tensors, for `requires`."""
        inner = context if requires is None else replace(context, requires=requires, hidden_logits=False)
        return [teacher.open(inner) for teacher in self.teachers]

    def check_full_logits(self, who: str) -> None:
        """Refuse teachers whose logits cannot be combined class by class.

        Raises:
            LimbeckError: If one has partial logits, or two have different tokenizers.
        """
        for number, teacher in enumerate(self.teachers):
            if teacher.capabilities.partial:
                raise LimbeckError(
                    f"{who} needs the logits of all classes, and teacher {number} ({type(teacher).__name__}) has those "
                    "of some only. Store all of them: encoding 'quantized' (1 byte a class), 'float16' or 'float32'."
                )
        tokenizers = {one.capabilities.tokenizer for one in self.teachers} - {None}
        if len(tokenizers) > 1:
            raise LimbeckError(f"{who} needs one vocabulary, and its teachers have {len(tokenizers)} tokenizers.")


def walk_teachers(teacher: Teacher) -> Iterator[Teacher]:
    """A teacher, and all teachers within it, at any depth."""
    yield teacher
    for one in teacher.teachers if isinstance(teacher, TeacherWrapper) else ():
        yield from walk_teachers(one)


class WrapperSession(TeacherSession):
    """Open sessions of several teachers, whose outputs are combined.

    Args:
        sessions: The sessions.
    """

    def __init__(self, sessions: Sequence[TeacherSession]) -> None:
        self.sessions = tuple(sessions)
        self._stack = ExitStack()

    @abstractmethod
    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        """The outputs for a batch from those of all sessions."""

    def query(self, batch: Batch) -> Batch:
        """The batch that the sessions get in place of `batch`; by default the same."""
        return batch

    @property
    def ahead(self) -> int:
        """The minimum over the sessions."""
        return min((session.ahead for session in self.sessions), default=0)

    def __enter__(self) -> WrapperSession:
        with ExitStack() as stack:
            for session in self.sessions:
                stack.enter_context(session)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def __call__(self, batch: Batch) -> Outputs:
        """The combined outputs."""
        query = self.query(batch)
        return self.combine(batch, [session(query) for session in self.sessions])

    def submit(self, batch: Batch) -> Future[Outputs]:
        """Submit the batch to every session; their outputs are combined when the result is read."""
        query = self.query(batch)
        futures = [session.submit(query) for session in self.sessions]
        return LazyFuture(lambda: self.combine(batch, [future.result() for future in futures]))

    def after_step(self) -> None:
        """Update all of them."""
        for session in self.sessions:
            session.after_step()

    def state_dict(self) -> dict[str, Any]:
        """The states of those that have one, by number."""
        states = {str(number): session.state_dict() for number, session in enumerate(self.sessions)}
        return states if any(states.values()) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states of all of them."""
        for number, session in enumerate(self.sessions):
            if saved := state.get(str(number)):
                session.load_state_dict(saved)


class LazyFuture(Future[Outputs]):
    """A future that computes in the thread that reads it: grad mode and autocast belong to threads."""

    def __init__(self, compute: Callable[[], Outputs]) -> None:
        super().__init__()
        self._compute = compute

    def result(self, timeout: float | None = None) -> Outputs:
        """Compute the outputs, once."""
        if not self.done():
            try:
                self.set_result(self._compute())
            except Exception as error:
                self.set_exception(error)
        return super().result(timeout)


@final
class ShuffledTeacher(TeacherWrapper):
    """A control: each example gets the teacher's outputs for the next example in its batch; the last gets the first's.

    The outputs have the same softness as the teacher's and no information about the example. As batches are shuffled,
    an example gets another one's outputs in every epoch. What a student gains from them is regularization. A batch of
    one gets its own outputs.

    Of texts, each position that counts gets the output for such a position of the next text, in the same order.

    Args:
        teacher: Anything that `as_teacher` accepts: a module, a teacher, an estimator, ...

    Raises:
        LimbeckError: When it is opened, if batches have one example each, or a model makes the examples.

    Example:
        >>> with ShuffledTeacher(nn.Identity()).open(TeacherContext()) as session:
        ...     session(Batch(torch.eye(3)))["logits"].argmax(1)
        tensor([1, 2, 0])
    """

    def __init__(self, teacher: Any) -> None:
        super().__init__(teacher)

    @property
    def inner(self) -> Teacher:
        """The teacher whose outputs are shuffled."""
        return self.teachers[0]

    @property
    def capabilities(self) -> TeacherCapabilities:
        """The teacher's, but not deterministic: the outputs of an example depend on its batch."""
        return super().capabilities._replace(deterministic=False)

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open the teacher."""
        if context.loader is not None and context.loader.depends_on_model:
            raise LimbeckError(
                "A ShuffledTeacher gives an example the outputs for another one, and those of this "
                f"{type(context.loader).__name__} are made anew by the model that learns (texts that it writes, "
                "adversarial inputs), which would follow outputs without meaning. Leave this control out: "
                "--set 'arms=[...]' without \"shuffled teacher\"; for texts, share=0 is another way."
            )
        # A loader of one's own may have batches of any size.
        if context.loader is not None and context.loader.batch_size == 1:
            raise LimbeckError(
                "A ShuffledTeacher uses the outputs of the next example in a batch; batch_size must be 2 or more."
            )
        return _ShuffledSession(self.open_all(context), context.masks)

    @property
    def fingerprint(self) -> str:
        """The hash of the teacher's fingerprint."""
        return hashlib.sha256(f"displaced {self.inner.fingerprint}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The teacher whose outputs are shuffled."""
        return {"teacher": "ShuffledTeacher", "of": self.inner.describe()}


@final
class _ShuffledSession(WrapperSession):
    def __init__(self, sessions: Sequence[TeacherSession], masks: Iterable[str]) -> None:
        super().__init__(sessions)
        self._masks = tuple(masks)

    def query(self, batch: Batch) -> Batch:
        return batch.rows(torch.arange(batch.size).roll(-1))

    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        if batch.mask is None or batch.mask.ndim != 2:
            return outputs[0]
        mask = batch.mask.bool()
        places = _places_in_next(mask)
        if self._masks:  # of hidden states: prompts too
            others = (batch.find_mask(name) for name in self._masks)
            every_token = torch.stack([mask, *(other.bool() for other in others if other is not None)]).any(0)
            places = torch.where(mask, places, _places_in_next(every_token))
        own = outputs[0]
        values: dict[str, Tensor | PartialLogits | HiddenLogits] = {**own.hidden, **own, **own.partial}
        return Outputs.of({address: _take_from_next(value, places) for address, value in values.items()})


def _places_in_next(mask: Tensor) -> Tensor:
    """For each position that counts, one that counts in the next text, in the same order; other positions stay.

    The next text may be shorter: then its positions are used again. So no position gets the output for padding.
    """
    following = mask.roll(-1, 0)
    counted_first = following.long().argsort(dim=1, descending=True, stable=True)
    count = following.sum(1, keepdim=True)
    places = counted_first.gather(1, (mask.long().cumsum(1) - 1).clamp_min(0) % count.clamp_min(1))
    return torch.where(mask & (count > 0), places, torch.arange(mask.shape[1], device=mask.device))


def _take_from_next(value: Tensor | PartialLogits | HiddenLogits, places: Tensor) -> Any:
    """The outputs at these positions of the next text. The groups of tokens of a text are its own."""
    if isinstance(value, (CrossTokenizerLogits, GroupLikelihoods)):
        first = torch.arange(len(places), device=places.device).unsqueeze(1) * places.shape[1]
        return value.exchange((places + first).to(value.device))
    return take_places(value, places, places.shape[1])


def take_places(
    value: Tensor | PartialLogits | HiddenLogits, places: Tensor, length: int
) -> Tensor | PartialLogits | HiddenLogits:
    """The outputs at some positions of each text; outputs without positions stay as they are.

    Args:
        value: Outputs for rows of positions, ``[batch, length, ...]``.
        places: The positions, ``int64 [batch, chosen]``.
        length: The number of positions of the rows.

    Example:
        >>> take_places(torch.arange(6.0).view(1, 3, 2), torch.tensor([[2, 0]]), 3).tolist()
        [[[4.0, 5.0], [0.0, 1.0]]]
    """
    if value.shape[:2] != (len(places), length) or len(value.shape) < 3:
        return value
    first = torch.arange(len(places), device=places.device).unsqueeze(1) * length
    rows = (places + first).flatten().to(value.device)
    if isinstance(value, Tensor):
        return value.flatten(0, 1)[rows].reshape(*places.shape, *value.shape[2:])
    return value.reshape(-1)[rows].reshape(*places.shape)
