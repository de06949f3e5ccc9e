"""Addresses of a transformer's layers, and maps from the student's layers to the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.methods.support import check_count

Layout = str | Mapping[str, str]
"""The name of a layout in `LAYOUTS`, or addresses by the names of the fields of `TransformerAddresses`."""


@dataclass(frozen=True)
class TransformerAddresses:
    """The addresses of a transformer's outputs; ``{}`` stands for the number of a layer, from 0.

    Attributes:
        layer: The hidden states after a layer, ``[batch, tokens, width]``.
        attention: The attention maps of a layer, ``[batch, heads, tokens, tokens]``.
        attention_output: The hidden states after the attention of a layer, with what was added from before it.
        query: The queries of all heads, ``[batch, tokens, width]``.
        key: The keys of all heads.
        value: The values of all heads.
        embeddings: The input of the first layer.

    Example:
        >>> get_addresses("bert").at("layer", 3)
        'bert.encoder.layer.3'
    """

    layer: str = ""
    attention: str = ""
    attention_output: str = ""
    query: str = ""
    key: str = ""
    value: str = ""
    embeddings: str = ""

    def at(self, name: str, layer: int = 0) -> str:
        """The address of an output in a layer.

        Raises:
            LimbeckError: If these addresses do not have it.
        """
        address = str(vars(self)[name])
        if not address:
            raise LimbeckError(
                f"The addresses have none for {name!r}: addresses={{{name!r}: 'encoder.layer.{{}}...'}}, with {{}} for "
                "the number of the layer."
            )
        return address.replace("{}", str(layer))


def _bert(name: str) -> TransformerAddresses:
    layer = f"{name}.encoder.layer.{{}}"
    self_attention = f"{layer}.attention.self"
    return TransformerAddresses(
        layer=layer, attention=f"{self_attention}:1", attention_output=f"{layer}.attention.output",
        query=f"{self_attention}.query", key=f"{self_attention}.key", value=f"{self_attention}.value",
        embeddings=f"{name}.embeddings",
    )  # fmt: skip


LAYOUTS = {
    "bert": _bert("bert"),
    "roberta": _bert("roberta"),
    "distilbert": TransformerAddresses(
        layer="distilbert.transformer.layer.{}", attention="distilbert.transformer.layer.{}.attention:1",
        attention_output="distilbert.transformer.layer.{}.sa_layer_norm",
        query="distilbert.transformer.layer.{}.attention.q_lin", key="distilbert.transformer.layer.{}.attention.k_lin",
        value="distilbert.transformer.layer.{}.attention.v_lin", embeddings="distilbert.embeddings",
    ),
    "vit": TransformerAddresses(
        layer="vit.layers.{}", attention="vit.layers.{}.attention:1",
        attention_output="vit.layers.{}.layernorm_after:in", query="vit.layers.{}.attention.q_proj",
        key="vit.layers.{}.attention.k_proj", value="vit.layers.{}.attention.v_proj", embeddings="vit.embeddings",
    ),
}  # fmt: skip
"""Addresses in models of transformers (version 5) by name, under a head such as ``BertForSequenceClassification``."""


def get_addresses(layout: Layout) -> TransformerAddresses:
    """The addresses of a layout.

    Args:
        layout: The name of a layout, or addresses by the names of the fields of `TransformerAddresses`.

    Raises:
        UnknownNameError: If there is no such layout, or no such field.
        ArgumentError: If it is neither, or the address of a layer has no place for its number.

    Example:
        >>> get_addresses({"layer": "blocks.{}"}).at("layer", 2)
        'blocks.2'
    """
    if isinstance(layout, str):
        if layout not in LAYOUTS:
            raise unknown_name_error(
                "layout of a transformer", layout, LAYOUTS,
                then="Or addresses of your own: {'layer': 'encoder.layer.{}', ...}.", argument="addresses",
            )  # fmt: skip
        return LAYOUTS[layout]
    known = [field.name for field in fields(TransformerAddresses)]
    if not isinstance(layout, Mapping):
        raise ArgumentError(
            f"addresses is the name of a layout ({', '.join(LAYOUTS)}) or addresses by name, such as "
            f"{{'layer': 'encoder.layer.{{}}'}}; got {layout!r}.",
            argument="addresses",
        )
    for name, address in layout.items():
        if name not in known:
            raise unknown_name_error("address of a transformer", name, known, argument="addresses")
        if not isinstance(address, str) or (name != "embeddings" and "{}" not in address):
            raise ArgumentError(
                f"The address for {name!r} has {{}} in place of the number of the layer, such as 'encoder.layer.{{}}'; "
                f"got {address!r}.",
                argument="addresses",
            )
    return TransformerAddresses(**layout)


def get_layouts(
    student_addresses: Layout | None, addresses: Layout
) -> tuple[TransformerAddresses, TransformerAddresses]:
    """The addresses in the student, by default those in the teacher, and the addresses in the teacher.

    Raises:
        UnknownNameError: If there is no such layout, or no such field.
        ArgumentError: If one is neither, or the address of a layer has no place for its number.

    Example:
        >>> student, teacher = get_layouts("distilbert", "bert")
        >>> student == LAYOUTS["distilbert"], teacher == LAYOUTS["bert"]
        (True, True)
    """
    teacher = get_addresses(addresses)
    return (teacher if student_addresses is None else get_addresses(student_addresses)), teacher


def uniform_layer_map(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Pairs (student's layer, teacher's layer), from 0, at equal distances; the last layers are a pair.

    Example:
        >>> uniform_layer_map(4, 12)
        [(0, 2), (1, 5), (2, 8), (3, 11)]
    """
    return [(layer, (layer + 1) * teacher_layers // student_layers - 1) for layer in range(student_layers)]


def last_layer_map(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Pairs (student's layer, teacher's layer), from 0, with the last layers of the teacher.

    Example:
        >>> last_layer_map(4, 12)
        [(0, 8), (1, 9), (2, 10), (3, 11)]
    """
    return [(layer, teacher_layers - student_layers + layer) for layer in range(student_layers)]


LAYER_MAPS: dict[str, Callable[[int, int], list[tuple[int, int]]]] = {
    "uniform": uniform_layer_map,
    "last": last_layer_map,
}
"""Layer maps by name."""


def find_layer_pairs(
    layer_map: str | Sequence[Sequence[int]], student_layers: int, teacher_layers: int
) -> list[tuple[int, int]]:
    """The pairs of a layer map.

    Args:
        layer_map: The name of a layer map, or pairs (student's layer, teacher's layer) from 0.
        student_layers: The number of layers of the student.
        teacher_layers: The number of layers of the teacher.

    Raises:
        LimbeckError: If a number is no count, the student has more layers than the teacher, there is no such map, or a
            layer does not exist.

    Example:
        >>> find_layer_pairs([[0, 3], [1, 11]], 2, 12)
        [(0, 3), (1, 11)]
    """
    check_count(student_layers=student_layers, teacher_layers=teacher_layers)
    if isinstance(layer_map, str):
        if layer_map not in LAYER_MAPS:
            raise unknown_name_error(
                "layer map", layer_map, LAYER_MAPS,
                then="Or pairs (student's layer, teacher's layer) from 0: [[0, 5], [1, 11]].", argument="layer_map",
            )  # fmt: skip
        if student_layers > teacher_layers:
            raise ArgumentError(
                f"The student has {student_layers} layers and the teacher {teacher_layers}; for a deeper student give "
                "pairs (student's layer, teacher's layer): layer_map=[[0, 0], [3, 1]].",
                argument="layer_map",
            )
        return LAYER_MAPS[layer_map](student_layers, teacher_layers)
    listed = list(layer_map) if isinstance(layer_map, (list, tuple)) else []
    pairs = [_check_pair(pair, student_layers, teacher_layers) for pair in listed]
    if not pairs or len(set(pairs)) < len(pairs):
        raise ArgumentError(
            f"layer_map is one of {', '.join(LAYER_MAPS)}, or different pairs (student's layer, teacher's layer) from "
            f"0, such as [[0, 5], [1, 11]]; got {layer_map!r}.",
            argument="layer_map",
        )
    return pairs


def _check_pair(pair: Any, student_layers: int, teacher_layers: int) -> tuple[int, int]:
    whole = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(type(layer) is int for layer in pair)
    if not whole or not (0 <= pair[0] < student_layers and 0 <= pair[1] < teacher_layers):
        raise ArgumentError(
            f"layer_map has {pair!r}; a pair is a layer of the student, 0 to {student_layers - 1}, and one of the "
            f"teacher, 0 to {teacher_layers - 1}.",
            argument="layer_map",
        )
    return (pair[0], pair[1])


def pair_addresses(
    mine: TransformerAddresses, its: TransformerAddresses, first: str, second: str, ours: int, theirs: int
) -> dict[str, Any]:
    """The arguments ``student`` and ``teacher`` of a `Loss` whose kernel has queries and keys on both sides.

    Args:
        mine: The student's addresses.
        its: The teacher's addresses.
        first: The name of the address that is read as queries: ``query``, ``key`` or ``value``.
        second: The name of the address that is read as keys.
        ours: The student's layer.
        theirs: The teacher's layer.
    """
    return {
        "student": {"query": mine.at(first, ours), "key": mine.at(second, ours)},
        "teacher": {"teacher_query": its.at(first, theirs), "teacher_key": its.at(second, theirs)},
    }
