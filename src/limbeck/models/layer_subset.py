"""A student made of some of its teacher's layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from limbeck.errors import ArgumentError, LimbeckError


def shallow(teacher: Any, layers: int | Sequence[int], *, embeddings: bool = True, head: bool = True) -> Any:
    """A Hugging Face model of the teacher's own kind with fewer layers, which begin as some of the teacher's.

    Nothing is shared: the teacher stays as it is, and what comes back is a plain model that saves and opens as any
    other (``save_pretrained``, ``from_pretrained``), with the teacher's configuration but for the number of layers.

    Args:
        teacher: A model of transformers, any whose layers stand in one list (BERT, RoBERTa, DistilBERT, GPT-2, Llama,
            Qwen, ...).
        layers: Which of the teacher's layers, from 0, in order; or how many, which must divide the teacher's: then the
            first of every group, so 2 of 6 are 0 and 3.
        embeddings: Whether the embeddings are the teacher's too; if not, they are new.
        head: Whether what stands behind the layers of the body (the classifier) is; if not, it is new.

    Returns:
        The student, on the CPU, in training mode. What is new is drawn from the global generator.

    Raises:
        LimbeckError: If it is no model of transformers, its layers stand in no list, the number does not divide, or a
            layer is none of the teacher's.

    Example:
        >>> # student = shallow(teacher, 2)                 # of 6: layers 0 and 3
        >>> # student = shallow(teacher, [0, 5], head=False)

    Source: Sanh et al., DistilBERT, 2019, arXiv:1910.01108, section 3.
    """
    place, depth = layer_list(teacher)
    chosen = chosen_layers(layers, depth)
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(chosen)
    for name, value in list(vars(config).items()):
        # One entry for each layer: the kind of its attention, for example.
        if isinstance(value, (list, tuple)) and len(value) == depth and name.startswith(("layer", "mlp_layer")):
            setattr(config, name, type(value)(value[i] for i in chosen))
    student = type(teacher)(config)
    new = _new_names(student, embeddings=embeddings, head=head)
    theirs, mine = teacher.state_dict(), student.state_dict()
    with torch.no_grad():
        for name, tensor in mine.items():
            source = _source(name, place, chosen)
            if source in theirs and not name.startswith(new):
                tensor.copy_(theirs[source])
    return student.train()


def layer_list(model: Any) -> tuple[str, int]:
    """The path of a Hugging Face model's list of layers, and how many there are.

    Raises:
        LimbeckError: If it is no such model, or has no such list.
    """
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    who = type(model).__name__
    if not isinstance(model, nn.Module) or not isinstance(depth, int):
        raise LimbeckError(
            f"A {who} does not say how many layers it has (config.num_hidden_layers): shallow() takes a model of "
            "transformers. Build a student of another kind yourself."
        )
    inside = model.named_modules()
    found = [name for name, part in inside if isinstance(part, nn.ModuleList) and len(part) == depth]
    if not found:
        raise LimbeckError(
            f"{who} has {depth} layers in its configuration and no list of {depth} of them (it may use one layer many "
            "times, as ALBERT does), so none can be taken out."
        )
    return min(found, key=lambda name: name.count(".")), depth


def chosen_layers(layers: int | Sequence[int], depth: int) -> list[int]:
    """Which of so many layers `shallow` takes, from 0.

    Raises:
        LimbeckError: If the number does not divide, or a layer is none of them.

    Example:
        >>> chosen_layers(2, 6)
        [0, 3]
    """
    if isinstance(layers, int):
        if layers < 1 or depth % layers:
            fitting = ", ".join(str(n) for n in range(1, depth) if depth % n == 0) or "1"
            raise ArgumentError(
                f"{layers} layers do not divide the teacher's {depth}: take {fitting}, or say which: layers=[0, ...].",
                argument="layers",
            )
        return list(range(0, depth, depth // layers))
    chosen = list(layers)
    for layer in chosen:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < depth:
            raise ArgumentError(
                f"layers={chosen}: {layer!r} is none of the teacher's, which are 0 to {depth - 1}.", argument="layers"
            )
    if not chosen:
        raise ArgumentError("layers=[] leaves no layer; name at least one.", argument="layers")
    return chosen


def _source(name: str, place: str, chosen: list[int]) -> str:
    """Where in the teacher a tensor of the student comes from."""
    if not name.startswith(f"{place}."):
        return name
    number, _, rest = name.removeprefix(f"{place}.").partition(".")
    return f"{place}.{chosen[int(number)]}.{rest}"


def _new_names(student: Any, *, embeddings: bool, head: bool) -> tuple[str, ...]:
    """The beginnings of the names of what stays new."""
    new: list[str] = []
    body = student.base_model_prefix
    if not head:
        new += [f"{name}." for name, _ in student.named_children() if name != body]
    if not embeddings:
        words = next(name for name, part in student.named_modules() if part is student.get_input_embeddings())
        parent = words.rpartition(".")[0]
        beside = [
            f"{parent}.{n}."
            for n, part in student.get_submodule(parent).named_children()
            if isinstance(part, nn.Embedding)
        ]
        new += beside if parent in ("", body) else [f"{parent}."]
    return tuple(new)
