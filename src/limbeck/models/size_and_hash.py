"""Counts parameters and bytes, and makes fingerprints of weights."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError


def fingerprint(model: nn.Module) -> str:
    """The SHA-256 of a model's state: equal for equal weights on any device.

    It covers names, dtypes, shapes and bytes of the parameters and persistent buffers, sorted by name. The order of the
    layers, the device and the training flags do not count. If a state holds more than tensors, as that of a quantized
    model or one with ``get_extra_state``, plain values and containers are included too.

    Raises:
        LimbeckError: If the state holds a tensor without data, or an object without plain values.

    Example:
        >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> _ = b.load_state_dict(a.state_dict())
        >>> fingerprint(a) == fingerprint(b)
        True
    """
    return state_fingerprint(unwrap_compiled(model).state_dict())


def state_fingerprint(state: Mapping[str, Any]) -> str:
    """The `fingerprint` of tensors and plain values by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        _add_to_digest(digest, name, state[name])
    return digest.hexdigest()


def _add_to_digest(digest: Any, name: str, value: Any) -> None:
    """Add a part of a state. Each part ends in a zero byte, so that different states give different texts."""
    if isinstance(value, Tensor) and not value.is_meta:
        tensor = value.detach().cpu()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        if tensor.is_quantized:
            _add_to_digest(digest, "scale", _scales(tensor))
            tensor = tensor.int_repr()
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        _add_to_digest(digest, name, torch.from_numpy(np.ascontiguousarray(value)))
    elif isinstance(value, Mapping):
        digest.update(f"{name}\0mapping of {len(value)}\0".encode())
        for key in sorted(value, key=repr):
            _add_to_digest(digest, repr(key), value[key])
    elif isinstance(value, (list, tuple, set, frozenset)):
        digest.update(f"{name}\0{type(value).__name__} of {len(value)}\0".encode())
        for part in sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value:
            _add_to_digest(digest, "", part)
    elif isinstance(value, (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.Size, np.generic)):
        digest.update(f"{name}\0{type(value).__name__}\0{value!r}\0".encode())
    elif not isinstance(value, Tensor) and _vars_of(value) is not None:
        digest.update(f"{name}\0{type(value).__qualname__}\0".encode())
        _add_to_digest(digest, "", _vars_of(value))
    else:
        raise LimbeckError(_more_than_tensors("A model", name, value))


def _vars_of(value: Any) -> dict[str, Any] | None:
    """The attributes of an object; None where it has no ``__dict__``."""
    try:
        return None if callable(value) else dict(vars(value))
    except TypeError:  # an object of a C library
        return None


def _scales(tensor: Tensor) -> list[Any]:
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return [tensor.q_scale(), tensor.q_zero_point()]
    return [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points(), tensor.q_per_channel_axis()]


def count_parameters(model: nn.Module) -> int:
    """The number of parameters, trainable or frozen; shared ones count once.

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
    return sum(t.numel() * t.element_size() for t in untie_state(tensors_of(model))[0].values())


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and persistent buffers by name, detached, not copied.

    Raises:
        LimbeckError: If the state holds something else than tensors with data.
    """
    state = unwrap_compiled(model).state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta:
            raise LimbeckError(_more_than_tensors(type(model).__name__, name, value))
    return dict(state)


def _more_than_tensors(model: str, name: str, value: Any) -> str:
    what = "a tensor without data (meta)" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    return f"{model}.state_dict() holds {what} at {name!r}; only tensors can be saved or hashed."


def unwrap_compiled(model: nn.Module) -> nn.Module:
    """The module inside a ``torch.compile`` wrapper, or the module itself: the same weights, under their own names.

    Example:
        >>> plain = nn.Linear(2, 2)
        >>> unwrap_compiled(torch.compile(plain)) is unwrap_compiled(plain) is plain
        True
    """
    compiler = sys.modules.get("torch._dynamo.eval_frame")  # without it, nothing was compiled; importing it takes long
    is_wrapper = compiler is not None and isinstance(model, compiler.OptimizedModule)
    inner: nn.Module = model._orig_mod if is_wrapper else model  # type: ignore[assignment]
    return inner


def untie_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state with each shared tensor once, under its first name, and a mapping from the other names to that one."""
    first: dict[tuple[object, ...], str] = {}
    tied: dict[str, str] = {}
    for name in sorted(state):
        tensor = state[name]
        # Empty tensors and tensors without data all have the address 0.
        if tensor.numel() and not tensor.is_meta:
            where = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if (shared := first.setdefault(where, name)) != name:
                tied[name] = shared
    return {name: tensor for name, tensor in state.items() if name not in tied}, tied
