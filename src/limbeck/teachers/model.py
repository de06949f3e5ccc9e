"""`ModelTeacher`: a model in memory as a teacher; `TeacherRef`: a model of the run as a teacher."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from limbeck.batch import Batch, Inputs, Outputs
from limbeck.errors import LimbeckError, unknown
from limbeck.models import fingerprint
from limbeck.tap import Adaptor, FrozenParameters, Tapped, buffers_kept
from limbeck.teachers.fingerprints import code_fingerprint, hash_layers
from limbeck.teachers.teacher import Preprocess, Teacher, TeacherFn, describe_preprocess, get_adaptor

# Their forward hands weight and bias to one operation that autocast runs in the narrow type, and to nothing else.
_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

_LIMIT = 2**28  # bytes; casting is a small part of what a larger model costs, and memory a larger one


class LowPrecisionCopy:
    """A frozen model that keeps its weights in the type that autocast would cast them to, for the length of a stage.

    Beside a small batch, casting costs as much as computing. The narrow weights are in a copy of the module's structure
    that shares everything else; the module itself is not touched. The copy answers only if it gave the same bits as the
    module on the first batch, and only as long as no weight changes and nothing listens inside the module.

    Args:
        tapped: The model, in eval mode, which is asked without gradient.
    """

    def __init__(self, tapped: Tapped) -> None:
        self._tapped = tapped
        self._modules = list(tapped.model.modules())
        self._weights = list(tapped.model.parameters())
        self._device = self._weights[0].device.type if self._weights else ""
        self._versions: list[int] = []
        self._narrow: Callable[[Inputs], Outputs] | None = None
        self._asked = False

    def __call__(self, inputs: Inputs) -> Outputs:
        """What the model shows."""
        if not self._weights or not torch.is_autocast_enabled(self._device):
            return self._tapped(inputs)
        if not self._asked:
            self._asked = True
            return self._first(inputs)
        if self._narrow is None:
            return self._tapped(inputs)
        if not self._untouched():
            self._narrow = None
            return self._tapped(inputs)
        return self._narrow(inputs)

    def _first(self, inputs: Inputs) -> Outputs:
        """What the model shows, and whether a copy with narrow weights shows the same."""
        shown = self._tapped(inputs)
        if any(weight.is_inference() for weight in self._weights):  # these do not say whether they change
            return shown
        self._versions = [weight._version for weight in self._weights]
        copied = _copied(self._tapped.model, torch.get_autocast_dtype(self._device)) if self._untouched() else None
        if copied is None:
            return shown
        narrow = self._tapped.of(copied)
        try:
            same = narrow(inputs)
        except (RuntimeError, TypeError, ValueError, AttributeError):  # it does more with its weights than we know of
            return shown
        if all(torch.equal(shown[address], same[address]) for address in shown):
            self._narrow = narrow
        return shown

    def _untouched(self) -> bool:
        for module in self._modules:
            if module._forward_hooks or module._forward_pre_hooks:
                return False
        return self._versions == [weight._version for weight in self._weights]


def _copied(model: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    """A copy whose linear and convolutional weights are narrow and whose other tensors are the model's own."""
    weights = [w for m in model.modules() if type(m) in _CAST for w in m.parameters(recurse=False)]
    if not weights or sum(w.numel() * dtype.itemsize for w in weights) > _LIMIT:
        return None
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        copied = copy.deepcopy(model, shared)
    except Exception:  # a module may hold anything, also what cannot be copied
        return None
    for module in copied.modules():
        if type(module) in _CAST:
            for name, weight in module.named_parameters(recurse=False):
                if weight.dtype == torch.float32:
                    setattr(module, name, nn.Parameter(weight.detach().to(dtype), requires_grad=False))
    return copied


Mode = Literal["eval", "train"]


class ModelTeacher(Teacher):
    """A model that is asked at every batch: in eval mode, without gradient, frozen.

    Args:
        model: Any module.
        preprocess: Its own way from a batch to its inputs; by default the stage's.
        mode: ``"train"`` only where a paper wants the teacher's dropout or batch statistics; it is recorded.
        adaptor: Raw output -> logits, for strange outputs.

    Example:
        >>> teacher = ModelTeacher(nn.Linear(2, 3))
        >>> with teacher.prepare(frozenset({"logits"}), device=torch.device("cpu"), preprocess=lambda b: b.inputs) as
        answer: ...     answer(Batch(torch.zeros(5, 2)))["logits"].shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocess: Preprocess | None = None,
        mode: Mode = "eval",
        adaptor: Adaptor | None = None,
    ) -> None:
        self.model = model
        self.preprocess = preprocess
        self.mode = checked_mode(mode)
        self.adaptor = adaptor

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """Check every address now; hooks and eval mode last for the block."""
        tapped = Tapped(self.model, requires, adaptor=self.adaptor)
        return teacher_mode(tapped, device=device, preprocess=self.preprocess or preprocess, mode=self.mode, still=True)

    @property
    def is_deterministic(self) -> bool:
        """Whether it is in eval mode."""
        return self.mode == "eval"

    @property
    def fingerprint(self) -> str:
        """The hash of its weights, of what its layers are, and of its own `preprocess` and `adaptor`."""
        own = [hash_layers(self.model), code_fingerprint(self.preprocess), code_fingerprint(self.adaptor)]
        return hashlib.sha256(f"{fingerprint(self.model)} {own}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Its class, mode and the hash of its weights."""
        name = type(self.model).__name__
        own = {
            "mode": self.mode,
            "preprocess": describe_preprocess(self.preprocess),
            "fingerprint": fingerprint(self.model),
        }
        return {"teacher": "ModelTeacher", "model": name, **own}


class TeacherRef(Teacher):
    """A model of the run, by name: one that an earlier stage made, or a peer that learns at the same time.

    Args:
        name: The model's name in the run.
        mode: ``"train"`` for a peer whose training-mode answers the paper uses.
        preprocess: Its own way from a batch to its inputs.
    """

    def __init__(self, name: str, *, mode: Mode = "eval", preprocess: Preprocess | None = None) -> None:
        self.name = name
        self.mode = checked_mode(mode)
        self.preprocess = preprocess
        self._live: ModelTeacher | None = None

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
        adaptor = get_adaptor(models, self.name)
        self._live = ModelTeacher(models[self.name], mode=self.mode, preprocess=self.preprocess, adaptor=adaptor)

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """As the live model does."""
        return self._bound().prepare(requires, device=device, preprocess=preprocess)

    @property
    def is_deterministic(self) -> bool:
        """Whether it is in eval mode."""
        return self.mode == "eval"

    @property
    def fingerprint(self) -> str:
        """The hash of the weights that it has now."""
        return self._bound().fingerprint

    def describe(self) -> dict[str, Any]:
        """Its name and mode."""
        return {
            "teacher": "TeacherRef",
            "name": self.name,
            "mode": self.mode,
            "preprocess": describe_preprocess(self.preprocess),
        }

    @property
    def bound(self) -> ModelTeacher:
        """The model that it was bound to."""
        return self._bound()

    def _bound(self) -> ModelTeacher:
        if self._live is None:
            raise LimbeckError(
                f"The teacher {self.name!r} is a name; the run binds it to a model before it can answer."
            )
        return self._live


@contextmanager
def teacher_mode(
    tapped: Tapped, *, device: torch.device, preprocess: Preprocess, mode: Mode, still: bool = False
) -> Iterator[TeacherFn]:
    """A block within which a tapped model answers without gradient; `still`: its running statistics do not move."""
    model = tapped.model.to(device)
    ask = LowPrecisionCopy(tapped) if still and mode == "eval" else tapped
    modules, wanted = list(model.modules()), mode == "train"

    def answer(batch: Batch) -> Outputs:
        # A peer, or a layer shared with the student, is put back into training mode by the student's own step.
        awake = (
            FrozenParameters(model, mode=mode)
            if any(module.training != wanted for module in modules)
            else nullcontext()
        )
        kept = buffers_kept([model]) if still and wanted else nullcontext()
        with awake, kept, torch.no_grad():
            return ask(preprocess(batch))

    with ExitStack() as stack:
        stack.enter_context(FrozenParameters(model, mode=mode))
        stack.enter_context(tapped)
        yield answer


def checked_mode(mode: str) -> Mode:
    """The mode, or a sentence that names the two."""
    if mode == "eval":
        return "eval"
    if mode == "train":
        return "train"
    raise unknown("teacher mode", mode, ["eval", "train"])
