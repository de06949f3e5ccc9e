"""How does a model in memory teach?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from limbeck.errors import LimbeckError, unknown
from limbeck.models import fingerprint
from limbeck.signal import Batch, Signal
from limbeck.tap import Adaptor, Frozen, Tapped, buffers_kept
from limbeck.teachers.content import content_of, layers_of
from limbeck.teachers.narrow import Narrow
from limbeck.teachers.teacher import Answer, Reads, Teacher, adaptor_of, told

Mode = Literal["eval", "train"]


class Live(Teacher):
    """A model that is asked at every batch: in eval mode, without gradient, frozen.

    Args:
        model: Any module.
        reads: Its own way from a batch to its inputs; by default the stage's.
        mode: ``"train"`` only where a paper wants the teacher's dropout or batch statistics; it is recorded.
        adaptor: Raw output -> logits, for strange outputs.

    Example:
        >>> teacher = Live(nn.Linear(2, 3))
        >>> with teacher.prepare(frozenset({"logits"}), device=torch.device("cpu"), reads=lambda b: b.inputs) as answer:
        ...     answer(Batch(torch.zeros(5, 2)))["logits"].shape
        torch.Size([5, 3])
    """

    def __init__(
        self, model: nn.Module, *, reads: Reads | None = None, mode: Mode = "eval", adaptor: Adaptor | None = None
    ) -> None:
        self.model = model
        self.reads = reads
        self.mode = checked_mode(mode)
        self.adaptor = adaptor

    def prepare(self, needs: frozenset[str], *, device: torch.device, reads: Reads) -> AbstractContextManager[Answer]:
        """Check every address now; hooks and eval mode last for the block."""
        tapped = Tapped(self.model, needs, adaptor=self.adaptor)
        return answering(tapped, device=device, reads=self.reads or reads, mode=self.mode, still=True)

    @property
    def steady(self) -> bool:
        """Whether it is in eval mode."""
        return self.mode == "eval"

    @property
    def fingerprint(self) -> str:
        """The hash of its weights, of what its layers are, and of its own `reads` and `adaptor`."""
        own = [layers_of(self.model), content_of(self.reads), content_of(self.adaptor)]
        return hashlib.sha256(f"{fingerprint(self.model)} {own}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Its class, mode and the hash of its weights."""
        name = type(self.model).__name__
        own = {"mode": self.mode, "reads": told(self.reads), "fingerprint": fingerprint(self.model)}
        return {"teacher": "Live", "model": name, **own}


class Named(Teacher):
    """A model of the run, by name: one that an earlier stage made, or a peer that learns at the same time.

    Args:
        name: The model's name in the run.
        mode: ``"train"`` for a peer whose training-mode answers the paper uses.
        reads: Its own way from a batch to its inputs.
    """

    def __init__(self, name: str, *, mode: Mode = "eval", reads: Reads | None = None) -> None:
        self.name = name
        self.mode = checked_mode(mode)
        self.reads = reads
        self._live: Live | None = None

    @property
    def names(self) -> frozenset[str]:
        """Its name."""
        return frozenset({self.name})

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Find the model of that name."""
        if self.name not in models:
            raise unknown(
                "model", self.name, models, then="A stage's teacher may be a model that an earlier stage made."
            )
        adaptor = adaptor_of(models, self.name)
        self._live = Live(models[self.name], mode=self.mode, reads=self.reads, adaptor=adaptor)

    def prepare(self, needs: frozenset[str], *, device: torch.device, reads: Reads) -> AbstractContextManager[Answer]:
        """As the live model does."""
        return self._bound().prepare(needs, device=device, reads=reads)

    @property
    def steady(self) -> bool:
        """Whether it is in eval mode."""
        return self.mode == "eval"

    @property
    def fingerprint(self) -> str:
        """The hash of the weights that it has now."""
        return self._bound().fingerprint

    def describe(self) -> dict[str, Any]:
        """Its name and mode."""
        return {"teacher": "Named", "name": self.name, "mode": self.mode, "reads": told(self.reads)}

    @property
    def bound(self) -> Live:
        """The model that it was bound to."""
        return self._bound()

    def _bound(self) -> Live:
        if self._live is None:
            raise LimbeckError(
                f"The teacher {self.name!r} is a name; the run binds it to a model before it can answer."
            )
        return self._live


@contextmanager
def answering(
    tapped: Tapped, *, device: torch.device, reads: Reads, mode: Mode, still: bool = False
) -> Iterator[Answer]:
    """A block within which a tapped model answers without gradient; `still`: its running statistics do not move."""
    model = tapped.model.to(device)
    ask = Narrow(tapped) if still and mode == "eval" else tapped
    modules, wanted = list(model.modules()), mode == "train"

    def answer(batch: Batch) -> Signal:
        # A peer, or a layer shared with the student, is put back into training mode by the student's own step.
        awake = Frozen(model, mode=mode) if any(module.training != wanted for module in modules) else nullcontext()
        kept = buffers_kept([model]) if still and wanted else nullcontext()
        with awake, kept, torch.no_grad():
            return ask(reads(batch))

    with ExitStack() as stack:
        stack.enter_context(Frozen(model, mode=mode))
        stack.enter_context(tapped)
        yield answer


def checked_mode(mode: str) -> Mode:
    """The mode, or a sentence that names the two."""
    if mode == "eval":
        return "eval"
    if mode == "train":
        return "train"
    raise unknown("teacher mode", mode, ["eval", "train"])
