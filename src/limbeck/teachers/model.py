"""`ModelTeacher`: a model in memory as a teacher. `TeacherRef`: a model of the run as a teacher."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from limbeck.batch import Batch, Inputs, Outputs
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.models import fingerprint
from limbeck.tap import Adaptor, FrozenParameters, Tapped, preserved_buffers
from limbeck.teachers.fingerprints import code_fingerprint, hash_layers
from limbeck.teachers.teacher import Preprocess, Teacher, TeacherFn, describe_preprocess, get_adaptor

# Their forward passes weight and bias to a single operation, which autocast runs in the narrow type.
_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

_LIMIT = 2**28  # bytes; for a larger model, casting is a small part of the time and the copy takes much memory


class LowPrecisionCopy:
    """A frozen model with a copy of its weights in the type that autocast would cast them to, for one stage.

    With a small batch, casting takes as long as computing. The narrow weights are in a copy of the module that shares
    all other tensors; the module itself is not changed. The copy is used only if it gave bitwise the same outputs as
    the module on the first batch, and only as long as no weight changes and the module has no hooks.

    Args:
        tapped: The model, in eval mode, called without gradients.
    """

    def __init__(self, tapped: Tapped) -> None:
        self._tapped = tapped
        self._modules = list(tapped.model.modules())
        self._weights = list(tapped.model.parameters())
        self._device = self._weights[0].device.type if self._weights else ""
        self._versions: list[int] = []
        self._narrow: Callable[[Inputs], Outputs] | None = None
        self._is_checked = False

    def __call__(self, inputs: Inputs) -> Outputs:
        """The model's outputs."""
        if not self._weights or not torch.is_autocast_enabled(self._device):
            return self._tapped(inputs)
        if not self._is_checked:
            self._is_checked = True
            return self._compare(inputs)
        if self._narrow is None:
            return self._tapped(inputs)
        if not self._is_unchanged():
            self._narrow = None
            return self._tapped(inputs)
        return self._narrow(inputs)

    def _compare(self, inputs: Inputs) -> Outputs:
        """The model's outputs; the copy is used from now on if its outputs are the same."""
        outputs = self._tapped(inputs)
        if any(weight.is_inference() for weight in self._weights):  # these have no version, so changes are not seen
            return outputs
        self._versions = [weight._version for weight in self._weights]
        narrow_model = None
        if self._is_unchanged():
            narrow_model = _copy_with_narrow_weights(self._tapped.model, torch.get_autocast_dtype(self._device))
        if narrow_model is None:
            return outputs
        narrow = self._tapped.of(narrow_model)
        try:
            narrow_outputs = narrow(inputs)
        except (RuntimeError, TypeError, ValueError, AttributeError):  # the model uses its weights in another way
            return outputs
        if all(torch.equal(outputs[address], narrow_outputs[address]) for address in outputs):
            self._narrow = narrow
        return outputs

    def _is_unchanged(self) -> bool:
        for module in self._modules:
            if module._forward_hooks or module._forward_pre_hooks:
                return False
        return self._versions == [weight._version for weight in self._weights]


def _copy_with_narrow_weights(model: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    """A copy with narrow linear and convolutional weights that shares all other tensors; None if it is not worth it."""
    weights = [w for m in model.modules() if type(m) in _CAST for w in m.parameters(recurse=False)]
    if not weights or sum(w.numel() * dtype.itemsize for w in weights) > _LIMIT:
        return None
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        copied = copy.deepcopy(model, shared)
    except Exception:  # a module may hold objects that cannot be copied
        return None
    for module in copied.modules():
        if type(module) in _CAST:
            for name, weight in module.named_parameters(recurse=False):
                if weight.dtype == torch.float32:
                    setattr(module, name, nn.Parameter(weight.detach().to(dtype), requires_grad=False))
    return copied


Mode = Literal["eval", "train"]


class ModelTeacher(Teacher):
    """A frozen model that runs on every batch, in eval mode and without gradients.

    Args:
        model: Any module.
        preprocess: The model's own function from a batch to its inputs; by default the stage's.
        mode: Use ``"train"`` only where a paper uses the teacher's dropout or batch statistics. It is recorded.
        adaptor: A function from the model's output to logits, for unusual outputs.

    Example:
        >>> teacher = ModelTeacher(nn.Linear(2, 3))
        >>> context = teacher.prepare(frozenset({"logits"}), device=torch.device("cpu"), preprocess=lambda b: b.inputs)
        >>> with context as compute:
        ...     compute(Batch(torch.zeros(5, 2)))["logits"].shape
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
        """Check every address; hooks and eval mode last for the context."""
        tapped = Tapped(self.model, requires, adaptor=self.adaptor)
        return teacher_mode(tapped, device=device, preprocess=self.preprocess or preprocess, mode=self.mode, still=True)

    @property
    def is_deterministic(self) -> bool:
        """Whether it is in eval mode."""
        return self.mode == "eval"

    @property
    def fingerprint(self) -> str:
        """The hash of its weights, its layers, and its own `preprocess` and `adaptor`."""
        own = [hash_layers(self.model), code_fingerprint(self.preprocess), code_fingerprint(self.adaptor)]
        return hashlib.sha256(f"{fingerprint(self.model)} {own}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Its class, its mode and the hash of its weights."""
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
        mode: ``"train"`` for a peer whose training-mode outputs the paper uses.
        preprocess: The model's own function from a batch to its inputs.
    """

    def __init__(self, name: str, *, mode: Mode = "eval", preprocess: Preprocess | None = None) -> None:
        self.name = name
        self.mode = checked_mode(mode)
        self.preprocess = preprocess
        self._model_teacher: ModelTeacher | None = None

    @property
    def names(self) -> frozenset[str]:
        """The model's name."""
        return frozenset({self.name})

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Look up the model of that name."""
        if self.name not in models:
            raise unknown_name_error(
                "model", self.name, models, then="A stage's teacher may be a model that an earlier stage made."
            )
        adaptor = get_adaptor(models, self.name)
        self._model_teacher = ModelTeacher(
            models[self.name], mode=self.mode, preprocess=self.preprocess, adaptor=adaptor
        )

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """Prepare the model, as `ModelTeacher` does."""
        return self.bound.prepare(requires, device=device, preprocess=preprocess)

    @property
    def is_deterministic(self) -> bool:
        """Whether it is in eval mode."""
        return self.mode == "eval"

    @property
    def fingerprint(self) -> str:
        """The hash of the weights that it has now."""
        return self.bound.fingerprint

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
        """The teacher for the model that it was bound to.

        Raises:
            LimbeckError: If it was not bound to a model yet.
        """
        if self._model_teacher is None:
            raise LimbeckError(f"The teacher {self.name!r} is a name. It has no model until a run binds it to one.")
        return self._model_teacher


@contextmanager
def teacher_mode(
    tapped: Tapped, *, device: torch.device, preprocess: Preprocess, mode: Mode, still: bool = False
) -> Iterator[TeacherFn]:
    """A context in which a tapped model runs without gradients; `still`: its running statistics do not change."""
    model = tapped.model.to(device)
    forward = LowPrecisionCopy(tapped) if still and mode == "eval" else tapped
    modules, is_training = list(model.modules()), mode == "train"

    def compute(batch: Batch) -> Outputs:
        # The student's own step puts a peer, or a layer that is shared with the student, back into training mode.
        mode_context = (
            FrozenParameters(model, mode=mode)
            if any(module.training != is_training for module in modules)
            else nullcontext()
        )
        buffer_context = preserved_buffers([model]) if still and is_training else nullcontext()
        with mode_context, buffer_context, torch.no_grad():
            return forward(preprocess(batch))

    with ExitStack() as stack:
        stack.enter_context(FrozenParameters(model, mode=mode))
        stack.enter_context(tapped)
        yield compute


def checked_mode(mode: str) -> Mode:
    """Validate a teacher's mode."""
    if mode == "eval":
        return "eval"
    if mode == "train":
        return "train"
    raise unknown_name_error("teacher mode", mode, ["eval", "train"])
