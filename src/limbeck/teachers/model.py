"""`ModelTeacher`, a model in memory; `TeacherRef`, a model of the run; `as_teacher`, the conversion of arguments."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from typing import Any, Literal, final

import torch
from torch import nn

from limbeck.batch import Batch, Inputs, Outputs
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.model_call import Adaptor
from limbeck.models import fingerprint, read_context_length
from limbeck.tap import FrozenParameters, Tapped, get_adaptor, preserved_buffers
from limbeck.teachers.fingerprints import code_fingerprint, hash_layers
from limbeck.teachers.sklearn_teacher import SklearnTeacher, is_regressor
from limbeck.teachers.teacher import (
    Preprocess,
    Teacher,
    TeacherCapabilities,
    TeacherContext,
    TeacherSession,
    check_row_lengths,
    describe_preprocess,
)

# Their forward passes weight and bias to a single operation, which autocast runs in the narrow type.
_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

_LIMIT = 2**28  # bytes; for a larger model, casting is a small part of the time and the copy takes much memory

Mode = Literal["eval", "train"]


@final
class ModelTeacher(Teacher):
    """A frozen model that runs on every batch, in eval mode and without gradients.

    Args:
        model: Any module.
        preprocess: The model's own function from a batch to its inputs; by default the stage's.
        mode: Use ``"train"`` only where a paper uses the teacher's dropout or batch statistics. It is recorded.
        adaptor: A function from the model's output to logits, for unusual outputs.

    Example:
        >>> with ModelTeacher(nn.Linear(2, 3)).open(TeacherContext()) as session:
        ...     session(Batch(torch.zeros(5, 2)))["logits"].shape
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
        self.mode = check_mode(mode)
        self.adaptor = adaptor

    @property
    def capabilities(self) -> TeacherCapabilities:
        """Deterministic in eval mode."""
        return TeacherCapabilities(deterministic=self.mode == "eval")

    def open(self, context: TeacherContext) -> TeacherSession:
        """Check every address; hooks and eval mode last for the session."""
        tapped = Tapped(self.model, context.requires, adaptor=self.adaptor, hidden_logits=context.hidden_logits)
        preprocess = self.preprocess or context.preprocess
        if self.preprocess is None:  # its own one may shorten texts
            check_row_lengths(read_context_length(self.model), context, f"The teacher {type(self.model).__name__}")
        return ModelSession(tapped, device=context.device, preprocess=preprocess, mode=self.mode)

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


@final
class TeacherRef(Teacher):
    """A model of the run, by name: one that an earlier stage created, or a peer that learns at the same time.

    Args:
        name: The model's name in the run.
        mode: ``"train"`` for a peer whose training-mode outputs the paper uses.
        preprocess: The model's own function from a batch to its inputs.
    """

    def __init__(self, name: str, *, mode: Mode = "eval", preprocess: Preprocess | None = None) -> None:
        self.name = name
        self.mode = check_mode(mode)
        self.preprocess = preprocess

    @property
    def names(self) -> frozenset[str]:
        """The model's name."""
        return frozenset({self.name})

    @property
    def capabilities(self) -> TeacherCapabilities:
        """Deterministic in eval mode."""
        return TeacherCapabilities(deterministic=self.mode == "eval")

    def resolve(self, models: Mapping[str, nn.Module]) -> ModelTeacher:
        """The `ModelTeacher` of the model of that name.

        Raises:
            UnknownNameError: If there is none; the nearest name is given.
        """
        if self.name not in models:
            raise unknown_name_error(
                "model", self.name, models, then="A stage's teacher may be a model that an earlier stage made."
            )
        adaptor = get_adaptor(models, self.name)
        return ModelTeacher(models[self.name], mode=self.mode, preprocess=self.preprocess, adaptor=adaptor)

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open the model, as `ModelTeacher` does."""
        return self.resolve(context.models).open(context)

    @property
    def fingerprint(self) -> str:
        """A name has no weights to hash.

        Raises:
            LimbeckError: Always; `resolve` gives the teacher that has a fingerprint.
        """
        raise LimbeckError(
            f"The teacher {self.name!r} is a name. It has no weights until a run resolves it: teacher.resolve(models)."
        )

    def describe(self) -> dict[str, Any]:
        """Its name and mode."""
        return {
            "teacher": "TeacherRef",
            "name": self.name,
            "mode": self.mode,
            "preprocess": describe_preprocess(self.preprocess),
        }


def as_teacher(value: Any) -> Teacher:
    """A teacher from a module, a fitted estimator, or the name of a model in the run.

    Raises:
        LimbeckError: If it is none of these.

    Example:
        >>> type(as_teacher(nn.Linear(2, 3))).__name__
        'ModelTeacher'
    """
    if isinstance(value, Teacher):
        return value
    if isinstance(value, nn.Module):
        return ModelTeacher(value)
    if isinstance(value, str):
        return TeacherRef(value)
    if hasattr(value, "predict_proba") or is_regressor(value):
        return SklearnTeacher(value)
    several = " Combine several with Ensemble(*members)." if isinstance(value, (list, tuple)) else ""
    raise LimbeckError(
        f"A {type(value).__name__} cannot be a teacher. Pass a module, a fitted scikit-learn classifier or "
        "regressor, the name of a model in the run, or a limbeck Teacher (ModelTeacher, Ensemble, Specialists, "
        f"PrecomputedTeacher, SklearnTeacher, MovingAverage, TeacherRef).{several}"
    )


class ModelSession(TeacherSession):
    """A session of a model that runs without gradients; hooks and modes last as long as its block.

    Args:
        tapped: The model and the addresses to read.
        device: The device on which it runs.
        preprocess: The function from a batch to its inputs.
        mode: The mode of all its layers.
        frozen: Whether nothing in the model changes, its running statistics included.
    """

    def __init__(
        self, tapped: Tapped, *, device: torch.device, preprocess: Preprocess, mode: Mode, frozen: bool = True
    ) -> None:
        self.model = tapped.model
        self._tapped, self._device, self._preprocess = tapped, device, preprocess
        self._mode: Mode = mode
        self._frozen = frozen
        self._forward: Callable[[Inputs], Outputs] = tapped
        self._modules: list[nn.Module] = []
        self._stack = ExitStack()

    def __enter__(self) -> ModelSession:
        self.model.to(self._device)
        self._modules = list(self.model.modules())
        if self._frozen and self._mode == "eval":
            self._forward = LowPrecisionCopy(self._tapped)
        with ExitStack() as stack:
            stack.enter_context(FrozenParameters(self.model, mode=self._mode))
            stack.enter_context(self._tapped)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def __call__(self, batch: Batch) -> Outputs:
        """The model's outputs."""
        is_training = self._mode == "train"
        # The student's own step puts a peer, or a layer that is shared with the student, back into training mode.
        woken = any(module.training != is_training for module in self._modules)
        mode_context = FrozenParameters(self.model, mode=self._mode) if woken else nullcontext()
        buffer_context = preserved_buffers([self.model]) if self._frozen and is_training else nullcontext()
        with mode_context, buffer_context, torch.no_grad():
            return self._forward(self._preprocess(batch))


def check_mode(mode: str) -> Mode:
    """Validate a teacher's mode."""
    if mode == "eval":
        return "eval"
    if mode == "train":
        return "train"
    raise unknown_name_error("teacher mode", mode, ["eval", "train"])


@final
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
