"""Narrower models of a teacher's architecture: new ones, and residual networks with its strongest channels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.hf_folder import find_hf_config, is_transformers
from limbeck.models.hf_widths import FEED_FORWARD
from limbeck.models.networks import ModelSpec, ResNet
from limbeck.models.reference import build, build_on_meta, get_model_spec


class NarrowModel(NamedTuple):
    """A narrower model that can be built.

    Attributes:
        what: Its settings in words, such as ``width 8 of 16``.
        parameters: The number of its parameters.
        build: Builds it, with new weights from the global generator.
    """

    what: str
    parameters: int
    build: Callable[[], nn.Module]


def list_narrow_models(teacher: nn.Module) -> list[NarrowModel]:
    """All narrower models of a teacher's architecture, the widest first.

    They have the teacher's depth, and widths in the same proportions: of a reference network its ``hidden``, ``widths``
    or ``width``; of a model of transformers its hidden size and feed-forward size, with as many heads, which are
    narrower.

    Raises:
        LimbeckError: If the teacher is neither, or its configuration has no single width.
    """
    spec = get_model_spec(teacher)
    if spec is not None:
        return [_measure(what, partial(build, one.name, **one.arguments)) for what, one in _narrow_specs(spec)]
    if is_transformers(teacher):
        kind: Any = type(teacher)
        try:
            configs = list(_narrow_configs(find_hf_config(teacher)))
            return [_measure(what, partial(_build_copy, kind, one)) for what, one in configs]
        # Models of images in stages have a list of widths, or none; a configuration may raise any error.
        except (AttributeError, TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
            raise LimbeckError(
                f"The configuration of this {type(teacher).__name__} cannot be made narrower as a whole "
                f"({type(error).__name__}: {error}). Take layers of it (by: layers), channels (by: channels) or low "
                "rank (by: low_rank), or name another student."
            ) from error
    raise LimbeckError(
        f"A {type(teacher).__name__} has no configuration with widths, as reference networks and models of "
        "transformers have. Take channels of it (by: channels), or layers (by: layers), or name another student."
    )


def _build_copy(kind: Any, config: Any) -> nn.Module:
    model: nn.Module = kind(copy.deepcopy(config))
    return model


def _measure(what: str, make: Callable[[], nn.Module]) -> NarrowModel:
    with torch.device("meta"):
        return NarrowModel(what, sum(parameter.numel() for parameter in make().parameters()), make)


def _narrow_specs(spec: ModelSpec) -> Iterator[tuple[str, ModelSpec]]:
    key = next(key for key in ("hidden", "widths", "width") if key in spec.arguments)
    before = spec.arguments[key]
    widths = [before] if isinstance(before, int) else list(before)
    largest, seen = max(widths, default=0), set()
    for width in range(largest - 1, 0, -1):
        after = [max(1, round(one * width / largest)) for one in widths]
        if tuple(after) not in seen:
            seen.add(tuple(after))
            value = after[0] if isinstance(before, int) else after
            yield f"{key} {value} of {before}", ModelSpec(spec.name, {**spec.arguments, key: value})


_EMBEDDING = ("embedding_size", "word_embed_proj_dim")


def _narrow_configs(config: Any) -> Iterator[tuple[str, Any]]:
    """Configurations with narrower heads; the width of a head stays even, as rotary embeddings need."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    head = hidden // heads
    names = config.to_dict()
    for width in range(head - 1 - (head - 1) % 2, 1, -2) if head > 2 else ():
        narrow = copy.deepcopy(config)
        narrow.hidden_size = width * heads
        for name in FEED_FORWARD:
            if isinstance(names.get(name), int):
                setattr(narrow, name, max(1, round(names[name] * width / head)))
        for name in _EMBEDDING:
            if names.get(name) == hidden:
                setattr(narrow, name, width * heads)
        for name in ("head_dim", "d_kv"):
            if isinstance(names.get(name), int):
                setattr(narrow, name, max(2, 2 * round(names[name] * width / head / 2)))
        yield f"hidden size {width * heads} of {hidden}", narrow


def narrow_resnet(teacher: ResNet, width: int) -> nn.Module:
    """A reference residual network of a smaller width with the strongest channels of a wider one.

    A channel's strength is the L2 norm of all weights that write to it. The shortcuts between stages have no weights:
    the channels of a stage are the middle ones of the next. So each stage takes the channels that the stage before has
    taken, and the strongest of those that are new.

    Args:
        teacher: A reference network ``resnet8``, ``resnet20``, ...
        width: Channels of its first stage, below that of the teacher.

    Example:
        >>> wide = build("resnet8", channels=1, classes=10, width=4)
        >>> narrow_resnet(wide, 2).spec.arguments
        {'channels': 1, 'classes': 10, 'width': 2}
    """
    spec = teacher.spec
    student: Any = build(spec.name, **{**spec.arguments, "width": width})
    stem: Any = teacher.stem[0]
    norm: Any = teacher.stem[1]
    stages: list[Any] = [teacher.layer1, teacher.layer2, teacher.layer3]
    strength = [_strength(stage) for stage in stages]
    strength[0] = strength[0] + _rows(stem.weight)
    full = spec.arguments["width"]
    kept = [_strongest(strength[0], width)]
    for stage, wide, narrow in ((1, full, width), (2, 2 * full, 2 * width)):
        before = wide // 2
        first = _strongest(strength[stage][:before], narrow // 2)
        last = _strongest(strength[stage][before + wide :], narrow - narrow // 2) + before + wide
        kept.append(torch.cat([first, kept[-1] + before, last]))
    with torch.no_grad():
        _copy_conv(student.stem[0], stem, kept[0], None)
        _copy_norm(student.stem[1], norm, kept[0])
        inputs = kept[0]
        for number, theirs in enumerate(stages):
            mine = student.get_submodule(f"layer{number + 1}")
            for block, origin in zip(mine, theirs, strict=True):
                inner = _strongest(_rows(origin.conv1.weight) + _rows(origin.conv2.weight.transpose(0, 1)),
                                   block.conv1.out_channels)  # fmt: skip
                _copy_conv(block.conv1, origin.conv1, inner, inputs)
                _copy_norm(block.norm1, origin.norm1, inner)
                _copy_conv(block.conv2, origin.conv2, kept[number], inner)
                _copy_norm(block.norm2, origin.norm2, kept[number])
                inputs = kept[number]
        student.classifier.weight.copy_(teacher.classifier.weight[:, kept[2]])
        student.classifier.bias.copy_(teacher.classifier.bias)
    return student


def _rows(weight: Tensor) -> Tensor:
    """The squared norm of the weights of each output."""
    return weight.detach().double().flatten(1).pow(2).sum(1)


def _strength(stage: Any) -> Tensor:
    return torch.stack([_rows(block.conv2.weight) for block in stage]).sum(0)


def _strongest(strength: Tensor, count: int) -> Tensor:
    return strength.argsort(descending=True, stable=True)[:count].sort().values


def _copy_conv(mine: nn.Conv2d, theirs: nn.Conv2d, outputs: Tensor, inputs: Tensor | None) -> None:
    weight = theirs.weight[outputs]
    mine.weight.copy_(weight if inputs is None else weight[:, inputs])


def _copy_norm(mine: Any, theirs: Any, channels: Tensor) -> None:
    for name, value in theirs.state_dict().items():
        mine.state_dict()[name].copy_(value[channels] if value.ndim else value)


def list_resnet_widths(teacher: ResNet) -> list[tuple[int, int]]:
    """Each smaller width of a reference residual network with its parameters, the widest first."""
    spec = teacher.spec
    widths = range(spec.arguments["width"] - 1, 0, -1)
    models = (build_on_meta(ModelSpec(spec.name, {**spec.arguments, "width": width})) for width in widths)
    return [(width, sum(p.numel() for p in model.parameters())) for width, model in zip(widths, models, strict=True)]
