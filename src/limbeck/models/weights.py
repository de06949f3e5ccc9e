"""How do weights from a file get into a model that is there already?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from limbeck.errors import DataError, nearest
from limbeck.models.pickled import is_pickle, refuse_pickle
from limbeck.models.safefile import Weights, read_weights
from limbeck.models.size import untied


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Copy the weights in a safetensors file, or in a student folder, into a model.

    Every name and shape has to match. Values keep the model's dtype and device. Tensors that the model shares may be in
    the file once.

    Args:
        model: Changed in place.
        path: A ``.safetensors`` file or a folder with ``model.safetensors``.

    Returns:
        The same model.

    Raises:
        LimbeckError: If the file is a pickle: with its SHA-256 and the command that converts it.
        DataError: If the file is missing or damaged, or does not fit; the first names that differ are given.
    """
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    model.load_state_dict(fitted(model, open_weights(path).state, source=str(path)))
    return model


def open_weights(path: Path) -> Weights:
    """`read_weights`, with a pickle refused by name.

    Raises:
        LimbeckError: If the file is a pickle.
        DataError: If the file is missing or damaged.
    """
    if path.is_file() and is_pickle(path):
        raise refuse_pickle(path)
    return read_weights(path)


def fitted(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """`state` under every name that the model's own state has, shared tensors filled in.

    Raises:
        DataError: If a name is missing or unknown, or a shape differs.
    """
    wanted = model.state_dict()
    full = dict(state)
    _fill_shared(full, untied({n: t for n, t in wanted.items() if isinstance(t, Tensor)})[1])
    missing = [name for name in wanted if name not in full]
    unexpected = [name for name in full if name not in wanted]
    other = [n for n in wanted if n in full and isinstance(wanted[n], Tensor) and full[n].shape != wanted[n].shape]
    if missing or unexpected or other:
        parts = [_absent("lacks", missing, unexpected), _absent("has besides", unexpected, missing)]
        parts += [f"has {n} as {list(full[n].shape)}, the model as {list(wanted[n].shape)}" for n in other[:1]]
        more = f" (and {len(other) - 1} more shapes differ)" if len(other) > 1 else ""
        raise DataError(f"{source} does not fit {type(model).__name__}: it {'; '.join(filter(None, parts))}{more}.")
    return full


def adopt_dtypes(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give each parameter and buffer the dtype that it has in `state`, in place, so that shared ones stay shared."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in state and tensor.dtype != state[name].dtype:
            tensor.data = tensor.data.to(state[name].dtype)


def _fill_shared(state: dict[str, Tensor], tied: Mapping[str, str]) -> None:
    # First whichever name the file has gives the group's own name its tensor, then that gives it to the rest.
    for name, kept in tied.items():
        if name in state:
            state.setdefault(kept, state[name])
    for name, kept in tied.items():
        if kept in state:
            state.setdefault(name, state[kept])


def _absent(verb: str, names: list[str], others: list[str]) -> str:
    if not names:
        return ""
    near = nearest(names[0], others)
    meant = f" (it may be {near})" if near else ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{verb} {names[0]}{meant}{more}"
