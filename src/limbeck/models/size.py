"""How large is a model, and which weights exactly does it have?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError


def fingerprint(model: nn.Module) -> str:
    """The SHA-256 of everything that a model's state holds: equal for equal weights, wherever they lie.

    It reads names, dtypes, shapes and bytes of the parameters and persistent buffers, in the order of their names: the
    order in which layers were added, the device and the training flags do not count.

    Raises:
        LimbeckError: If the state holds something else than tensors with data.

    Example:
        >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> _ = b.load_state_dict(a.state_dict())
        >>> fingerprint(a) == fingerprint(b)
        True
    """
    return state_fingerprint(tensors_of(model))


def state_fingerprint(state: Mapping[str, Tensor]) -> str:
    """`fingerprint` of tensors by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        # Each part ends in a byte that it cannot hold, so that no two states read alike.
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def count_parameters(model: nn.Module) -> int:
    """How many numbers can be trained or are frozen as parameters; shared ones count once.

    Example:
        >>> count_parameters(nn.Linear(3, 2))
        8
    """
    return sum(p.numel() for p in model.parameters())


def size_in_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and persistent buffers; shared ones count once.

    Example:
        >>> size_in_bytes(nn.Linear(3, 2))
        32
    """
    return sum(t.numel() * t.element_size() for t in untied(tensors_of(model))[0].values())


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and persistent buffers by name, detached, not copied.

    Raises:
        LimbeckError: If the state holds something else than tensors with data.
    """
    state = uncompiled(model).state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta:
            what = "a tensor without data (meta)" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise LimbeckError(
                f"{type(model).__name__}.state_dict() holds {what} at {name!r}; only tensors can be saved or hashed."
            )
    return dict(state)


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` was given, where `model` is what it gave: the same weights, under their names.

    Example:
        >>> plain = nn.Linear(2, 2)
        >>> uncompiled(torch.compile(plain)) is uncompiled(plain) is plain
        True
    """
    found = getattr(model, "_orig_mod", model)
    return found if isinstance(found, nn.Module) else model


def untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state with each shared tensor once, under the first of its names, and the other names with what they repeat."""
    first: dict[tuple[object, ...], str] = {}
    tied: dict[str, str] = {}
    for name in sorted(state):
        tensor = state[name]
        # Tensors that are empty or without data all have the address 0.
        if tensor.numel() and not tensor.is_meta:
            where = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if (kept := first.setdefault(where, name)) != name:
                tied[name] = kept
    return {name: tensor for name, tensor in state.items() if name not in tied}, tied
