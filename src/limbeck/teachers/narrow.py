"""How does a frozen model answer under autocast without its weights being cast at every call?"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from limbeck.signal import Inputs, Signal
from limbeck.tap import Tapped

# Their forward hands weight and bias to one operation that autocast runs in the narrow type, and to nothing else.
_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LIMIT = 2**28  # bytes; casting is a small part of what a larger model costs, and memory a larger one


class Narrow:
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
        self._narrow: Callable[[Inputs], Signal] | None = None
        self._asked = False

    def __call__(self, inputs: Inputs) -> Signal:
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

    def _first(self, inputs: Inputs) -> Signal:
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
