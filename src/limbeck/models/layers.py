"""Takes some of a model's layers, and changes the bias of its output layer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.models.hf_folder import find_hf_config
from limbeck.models.hf_heads import find_depth


def shallow(teacher: Any, layers: int | Sequence[int], *, embeddings: bool = True, head: bool = True) -> Any:
    """A Hugging Face model of the teacher's class with fewer layers, initialized with weights of the teacher's layers.

    Teacher and student share no weights. The student is a plain model (``save_pretrained``, ``from_pretrained``) with
    the teacher's configuration except for the number of layers.

    Args:
        teacher: A model of transformers, with all layers in one list (BERT, RoBERTa, DistilBERT, GPT-2, Llama,
            Qwen, ...), or an encoder-decoder (T5, BART), of which both sides get fewer layers.
        layers: The indices of the teacher's layers, from 0, in order; or their number, which must divide the teacher's:
            then the first of every group is taken, so 2 of 6 are 0 and 3.
        embeddings: Whether the embeddings are copied from the teacher; if not, they are newly initialized.
        head: Whether the classifier is copied from the teacher; if not, it is newly initialized.

    Returns:
        The student, on the CPU, in training mode. New weights use the global generator.

    Raises:
        LimbeckError: If it is no model of transformers, its layers are in no list, the number does not divide, or a
            layer does not exist.

    Example:
        >>> # student = shallow(teacher, 2)                 # of 6: layers 0 and 3
        >>> # student = shallow(teacher, [0, 5], head=False)

    Source: Sanh et al., DistilBERT, 2019, arXiv:1910.01108, section 3.
    """
    lists = find_layer_lists(teacher)
    chosen = {path: chosen_layers(layers, getattr(teacher.config, setting)) for path, setting in lists.items()}
    return copy_layers(teacher, chosen, embeddings=embeddings, head=head)


def copy_layers(
    teacher: Any, chosen: Mapping[str, Sequence[int]], *, embeddings: bool = True, head: bool = True
) -> Any:
    """The model of `shallow` with these layers of some lists of layers, by the paths of `find_layer_lists`."""
    config = copy.deepcopy(teacher.config)
    for path, setting in find_layer_lists(teacher).items():
        if path in chosen:
            depth = getattr(config, setting)
            setattr(config, setting, len(chosen[path]))
            _choose_settings(config, depth, chosen[path])
    student = type(teacher)(config)
    new = _new_names(student, embeddings=embeddings, head=head)
    theirs, mine = teacher.state_dict(), student.state_dict()
    with torch.no_grad():
        for name, tensor in mine.items():
            origin = _teacher_name(name, chosen)
            if origin in theirs and not name.startswith(new):
                tensor.copy_(theirs[origin])
    return student.train()


def layer_list(model: Any) -> tuple[str, int]:
    """The path of a Hugging Face model's list of layers, and how many there are; of an encoder-decoder, the encoder's.

    Raises:
        LimbeckError: If it is no such model, or has no such list.
    """
    path, setting = next(iter(find_layer_lists(model).items()))
    return path, getattr(model.config, setting)


_DECODER_DEPTHS = ("num_decoder_layers", "decoder_layers")


def find_layer_lists(model: Any) -> dict[str, str]:
    """The path of each list of layers, with the setting of its length: one, or those of encoder and decoder."""
    config: Any = find_hf_config(model) if isinstance(model, nn.Module) else None
    depths = {
        name: depth for name in ("num_hidden_layers", *_DECODER_DEPTHS)
        if (depth := find_depth(config, name)) is not None
    }  # fmt: skip
    who = type(model).__name__
    if not isinstance(model, nn.Module) or not depths:
        raise LimbeckError(
            f"A {who} has no config.num_hidden_layers: shallow() needs a model of "
            "transformers. Build a student of another kind yourself."
        )
    decoder = next((name for name in _DECODER_DEPTHS if name in depths), None)
    if config.is_encoder_decoder and decoder is not None and "num_hidden_layers" in depths:
        whole: Any = model
        sides = ((whole.get_encoder(), "num_hidden_layers"), (whole.get_decoder(), decoder))
        pairs = {_find_list(model, depths[setting], within=side): setting for side, setting in sides}
    else:  # a decoder alone may have the configuration of the whole model
        found = [(path, setting) for setting, depth in depths.items() if (path := _find_list(model, depth))]
        pairs = dict(found[:1])
    if not pairs or "" in pairs:
        depth = next(iter(depths.values()))
        raise LimbeckError(
            f"{who} has {depth} layers in its configuration and no list of {depth} of them (it may use one layer many "
            "times, as ALBERT does), so no layer can be copied."
        )
    return pairs


def _find_list(model: nn.Module, depth: int, *, within: nn.Module | None = None) -> str:
    """The path of the outermost list of so many modules; empty if there is none."""
    inside = set((within or model).modules())
    paths = [
        name for name, part in model.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == depth and part in inside
    ]  # fmt: skip
    return min(paths, key=lambda name: name.count("."), default="")


def _choose_settings(config: Any, depth: int, chosen: Sequence[int]) -> None:
    """Keep the entries of some layers in settings with one entry for each, such as the kind of attention."""
    for name, value in list(vars(config).items()):
        if isinstance(value, (list, tuple)) and len(value) == depth and name.startswith(_BY_LAYER):
            setattr(config, name, type(value)(value[i] for i in chosen))
    if hasattr(config, "attention_types") and hasattr(config, "attention_layers"):  # GPT-Neo writes them twice
        config.attention_types = [[list(config.attention_layers), 1]]


_BY_LAYER = ("layer", "mlp_layer", "attention_layers")


def chosen_layers(layers: int | Sequence[int], depth: int) -> list[int]:
    """The indices of the layers that `shallow` copies, from 0.

    Raises:
        LimbeckError: If the number does not divide `depth`, or a layer does not exist.

    Example:
        >>> chosen_layers(2, 6)
        [0, 3]
    """
    if isinstance(layers, int):
        if layers < 1 or depth % layers:
            fitting = ", ".join(str(n) for n in range(1, depth) if depth % n == 0) or "1"
            raise ArgumentError(
                f"{layers} layers do not divide the teacher's {depth}: use {fitting}, or name them: layers=[0, ...].",
                argument="layers",
            )
        return list(range(0, depth, depth // layers))
    chosen = list(layers)
    for layer in chosen:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < depth:
            raise ArgumentError(
                f"layers={chosen}: {layer!r} does not exist; the teacher's layers are 0 to {depth - 1}.",
                argument="layers",
            )
    if not chosen:
        raise ArgumentError("layers=[] leaves no layer; name at least one.", argument="layers")
    return chosen


def _teacher_name(name: str, chosen: Mapping[str, Sequence[int]]) -> str:
    """The teacher's name of the tensor that a tensor of the student is copied from."""
    for path, layers in chosen.items():
        if name.startswith(f"{path}."):
            number, _, rest = name.removeprefix(f"{path}.").partition(".")
            return f"{path}.{layers[int(number)]}.{rest}"
    return name


def _new_names(student: Any, *, embeddings: bool, head: bool) -> tuple[str, ...]:
    """The prefixes of the names of weights that are not copied."""
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


def add_bias(model: nn.Module, bias: Float[Tensor, " classes"], *, at: str | None = None) -> nn.Module:
    """Add to the bias of the layer that computes the logits; no wrapper is needed.

    A layer without a bias gets one, and then `limbeck.load` needs a `build` whose layer has one too.

    Args:
        model: Changed in place.
        bias: One number for each class.
        at: The address of the layer that computes the logits; by default the last linear layer or convolution in the
            model that has one output for each class.

    Returns:
        The same model.

    Raises:
        UnknownNameError: If there is no module at `at`.
        LimbeckError: If `bias` is not one finite number for each class, that layer has another number of outputs, or
            there is none that has as many as `bias`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3))
        >>> before = model(torch.ones(1, 2))
        >>> (add_bias(model, torch.tensor([0.0, 1.0, 0.0]))(torch.ones(1, 2)) - before).round(decimals=4)
        tensor([[0., 1., 0.]], grad_fn=<RoundBackward1>)
    """
    _check_bias(bias)
    layer = _layer(model, len(bias), at)
    with torch.no_grad():
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(len(bias), dtype=layer.weight.dtype, device=layer.weight.device))
        layer.bias += bias.to(layer.bias)
    return model


def _check_bias(bias: Any) -> None:
    if not isinstance(bias, Tensor) or bias.ndim != 1 or not bool(torch.isfinite(bias).all()):
        value = f"{list(bias.shape)}" if isinstance(bias, Tensor) and bias.ndim != 1 else f"{bias}"
        raise LimbeckError(f"The bias must be a tensor with one finite number for each class; got {value}.")


def _layer(model: nn.Module, classes: int, at: str | None) -> Any:
    modules = dict(model.named_modules())
    if at is not None:
        if at not in modules:
            raise unknown_name_error("address", at, [name for name in modules if name])
        if _outputs(modules[at]) != classes:
            what = type(modules[at]).__name__
            raise LimbeckError(f"{at}, a {what}, is no linear layer of {classes} outputs, one for each bias.")
        return modules[at]
    fitting: Sequence[nn.Module] = [module for module in modules.values() if _outputs(module) == classes]
    if not fitting:
        raise LimbeckError(
            f"No linear layer of {type(model).__name__} has {classes} outputs, one for each bias; name it: at='...'."
        )
    return fitting[-1]


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return module.out_channels
    return None
