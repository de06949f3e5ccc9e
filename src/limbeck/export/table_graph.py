"""The encoding of a table as part of an ONNX graph."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from limbeck.atomic_io import atomic_write
from limbeck.data import CategoryColumn, NumberColumn, TableEncoding
from limbeck.optional_imports import import_optional

_STUDENT = "student/"
_FAR = 100.0
"""Columns whose mean is further from 0, in standard deviations, are float64: float32 would lose digits."""


def _onnx() -> Any:
    return import_optional("onnx", extra="export", purpose="Writing ONNX")


def include_encoding(path: Path, encoding: TableEncoding) -> None:
    """Add the encoding of a table to an ONNX file that takes encoded features, in place.

    Each column becomes an input of its name, ``[batch, 1]`` as in scikit-learn's converter: numbers as ``float``
    (``double`` where float32 would lose digits) with NaN for missing values, names as ``string``. Unknown names become
    "other".

    Args:
        path: The file; its one input are the encoded features.
        encoding: The encoding; see `limbeck.load_encoding`.

    Raises:
        LimbeckError: If the extra ``export`` is missing.
    """
    onnx = _onnx()
    proto = onnx.load(str(path))
    old = proto.graph.input[0].name
    # A column may have the name of a tensor in the student's graph.
    onnx.compose.add_prefix(proto, _STUDENT, rename_outputs=False, inplace=True)
    names = input_names(encoding)
    nodes: list[Any] = []
    for column, name in zip(encoding.columns, names, strict=True):
        nodes += _number(column, name) if isinstance(column, NumberColumn) else _category(column, name)
    ends = [_end(name) for name in names]
    nodes.append(onnx.helper.make_node("Concat", ends, [_STUDENT + old], axis=1))
    kinds = [_kind(column) for column in encoding.columns]
    inputs = [
        onnx.helper.make_tensor_value_info(name, kind, ["batch", 1]) for name, kind in zip(names, kinds, strict=True)
    ]
    old_nodes = list(proto.graph.node)
    del proto.graph.input[:], proto.graph.node[:]
    proto.graph.input.extend(inputs)
    proto.graph.node.extend([*nodes, *old_nodes])  # ONNX requires topological order
    # LabelEncoder belongs to this operator set.
    if all(one.domain != "ai.onnx.ml" for one in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    for entry in proto.metadata_props:
        if entry.key == "limbeck":
            entry.value = json.dumps({**json.loads(entry.value), "reads_included": True})
    with atomic_write(path) as partial:
        onnx.save(proto, str(partial))


def input_names(encoding: TableEncoding) -> list[str]:
    """The name of the input of each column: that of the column, except for the name of the output."""
    return ["column logits" if column.name == "logits" else column.name for column in encoding.columns]


def raw_columns(encoding: TableEncoding, features: Float32[np.ndarray, "n features"]) -> dict[str, np.ndarray]:
    """The inverse of `TableEncoding.encode`: columns by input name; the name of "other" is empty."""
    columns: dict[str, np.ndarray] = {}
    start = 0
    for column, name in zip(encoding.columns, input_names(encoding), strict=True):
        part = features[:, start : start + len(column.features)]
        start += len(column.features)
        if isinstance(column, CategoryColumn):
            columns[name] = np.array([*column.values, ""], dtype=object)[part.argmax(1)]
        else:
            values = part[:, 0].astype(np.float64) * column.std + column.mean
            absent = part[:, 1] > 0 if column.missing else np.zeros(len(part), dtype=bool)
            columns[name] = np.where(absent, np.nan, values).astype(np.float64 if _is_far(column) else np.float32)
    return {name: values[:, None] for name, values in columns.items()}


def _is_far(column: NumberColumn) -> bool:
    return abs(column.mean) > _FAR * column.std


def _kind(column: NumberColumn | CategoryColumn) -> int:
    kinds = _onnx().TensorProto
    if isinstance(column, CategoryColumn):
        return int(kinds.STRING)
    return int(kinds.DOUBLE if _is_far(column) else kinds.FLOAT)


def _end(name: str) -> str:
    return f"encoded/{name}"


def _constant(name: str, value: np.ndarray) -> Any:
    onnx = _onnx()
    return onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value, name))


def _number(column: NumberColumn, name: str) -> Iterator[Any]:
    """``(value - mean) / std`` in float64, 0 for missing values; and their indicator, if the column has one."""
    onnx = _onnx()
    node, kinds = onnx.helper.make_node, onnx.TensorProto

    def at(step: str) -> str:
        return f"encoding/{name}/{step}"

    yield _constant(at("shape"), np.array([-1, 1], dtype=np.int64))
    for step, value in (("mean", column.mean), ("std", column.std), ("zero", 0.0)):
        yield _constant(at(step), np.array(value, dtype=np.float64))
    yield node("Reshape", [name, at("shape")], [at("rows")])
    yield node("Cast", [at("rows")], [at("double")], to=kinds.DOUBLE)
    yield node("IsNaN", [at("double")], [at("absent")])
    yield node("Sub", [at("double"), at("mean")], [at("centered")])
    yield node("Div", [at("centered"), at("std")], [at("scaled")])
    yield node("Where", [at("absent"), at("zero"), at("scaled")], [at("filled")])
    if not column.missing:
        yield node("Cast", [at("filled")], [_end(name)], to=kinds.FLOAT)
        return
    yield node("Cast", [at("filled")], [at("value")], to=kinds.FLOAT)
    yield node("Cast", [at("absent")], [at("indicator")], to=kinds.FLOAT)
    yield node("Concat", [at("value"), at("indicator")], [_end(name)], axis=1)


def _category(column: CategoryColumn, name: str) -> Iterator[Any]:
    """One-hot names; unknown names are in the last place."""
    node = _onnx().helper.make_node

    def at(step: str) -> str:
        return f"encoding/{name}/{step}"

    other, spellings = len(column.values), _spellings(column.values)
    yield _constant(at("shape"), np.array([-1], dtype=np.int64))
    yield _constant(at("depth"), np.array(other + 1, dtype=np.int64))
    yield _constant(at("ends"), np.array([0.0, 1.0], dtype=np.float32))
    yield node("Reshape", [name, at("shape")], [at("rows")])
    yield node(
        "LabelEncoder", [at("rows")], [at("place")], domain="ai.onnx.ml", keys_strings=list(spellings),
        values_int64s=list(spellings.values()), default_int64=other,
    )  # fmt: skip
    yield node("OneHot", [at("place"), at("depth"), at("ends")], [_end(name)], axis=-1)


def _spellings(values: Sequence[str]) -> dict[str, int]:
    """Spellings of each name that `limbeck.read_table` accepts (other spaces and case), and its place."""
    spellings: dict[str, int] = {}
    for variant in (str, str.lower, str.upper, str.title):
        forms = [variant(value) for value in values]
        for place, form in enumerate(forms):
            if forms.count(form) == 1 or variant is str:
                for text in (form, f" {form}", f"{form} ", f" {form} "):
                    spellings.setdefault(text, place)
    return spellings
