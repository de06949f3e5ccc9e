"""Stores the inputs of a teacher's output layer in place of its logits, without loss."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.batch import LOGITS, Outputs
from limbeck.cache import Location, Store, find_manifest
from limbeck.errors import DataError, LimbeckError, unknown_name_error
from limbeck.teachers.model import ModelTeacher, TeacherRef
from limbeck.teachers.teacher import Teacher

FILE = "head.safetensors"
_TOLERANCE = 1e-3  # relative to the range of the logits; the error of a bfloat16 product is smaller


class LastLayer(NamedTuple):
    """A teacher's last layer: logits are ``weight @ inputs + bias``.

    Attributes:
        address: The address of its inputs.
        weight: ``[classes, features]``.
        bias: ``[classes]``; None where the layer has none.
    """

    address: str
    weight: Tensor
    bias: Tensor | None

    def logits(self, inputs: Tensor) -> Tensor:
        """The logits for these inputs of the layer."""
        weight = self.weight.to(inputs.device, inputs.dtype)
        return F.linear(inputs, weight, None if self.bias is None else self.bias.to(inputs.device, inputs.dtype))

    def check(self, outputs: Outputs) -> None:
        """Compare the layer's logits with the teacher's.

        Raises:
            LimbeckError: If another operation follows this layer.
        """
        expected, logits = outputs[LOGITS].float(), self.logits(outputs[self.address].float())
        tolerance = _TOLERANCE * max(float(expected.abs().max()), 1.0)
        if expected.shape != logits.shape or float((expected - logits).abs().max()) > tolerance:
            raise LimbeckError(
                f"The logits are not the output of the layer {self.address.removesuffix(':in')!r}: another operation "
                "follows it. Name the last layer, or leave through= out."
            )


def query_addresses(requires: frozenset[str], head: LastLayer | None) -> frozenset[str]:
    """The addresses that the teacher has to compute for these."""
    return requires if head is None else requires | {head.address}


def stored_addresses(requires: frozenset[str], head: LastLayer | None) -> frozenset[str]:
    """The addresses that the cache has to store for these."""
    if head is None or LOGITS not in requires:
        return requires
    return (requires - {LOGITS}) | {head.address}


def find_last_layer(teacher: Teacher, name: str) -> LastLayer:
    """The last layer of a teacher that is a single network.

    Raises:
        LimbeckError: If the teacher is no single network, or has no `torch.nn.Linear` of that name.
    """
    model = (
        teacher.model
        if isinstance(teacher, ModelTeacher)
        else teacher.bound.model
        if isinstance(teacher, TeacherRef)
        else None
    )
    if model is None:
        raise LimbeckError(
            f"through={name!r} names a layer of a network, and a {type(teacher).__name__} is no network. Leave it out."
        )
    layers = {n: module for n, module in model.named_modules() if isinstance(module, nn.Linear)}
    if name not in layers:
        raise unknown_name_error("Linear layer of the teacher", name, layers)
    layer = layers[name]
    bias = None if layer.bias is None else layer.bias.detach().cpu()
    return LastLayer(f"{name}:in", layer.weight.detach().cpu(), bias)


def describe_head(head: LastLayer) -> tuple[dict[str, Any], bytes]:
    """The layer's entry in a manifest, and the content of its file."""
    data = _bytes(head)
    return {"address": head.address, "sha256": hashlib.sha256(data).hexdigest()}, data


def check_head(store: Store) -> DataError | None:
    """The error of a cache whose last layer is missing or damaged; None where it is fine, or there is none."""
    description = store.manifest.about.get("head")
    try:
        _ = None if description is None else load_head(store.location, description)
    except DataError as error:
        return error
    return None


def repair_head(location: Location, head: LastLayer) -> None:
    """Write the layer again where a cache has lost it, or it is damaged.

    Raises:
        LimbeckError: If the location cannot be written to.
    """
    if find_manifest(location) is not None and check_head(Store(location)) is not None:
        location.put(FILE, _bytes(head))


def _bytes(head: LastLayer) -> bytes:
    from safetensors.torch import save

    return save({"weight": head.weight.contiguous()} | ({} if head.bias is None else {"bias": head.bias.contiguous()}))


def load_head(location: Location, description: Mapping[str, Any]) -> LastLayer:
    """Load the last layer from a cache.

    Raises:
        DataError: If the file is missing or damaged.
    """
    from safetensors.torch import load

    data = location.read(FILE)
    if data is None or hashlib.sha256(data).hexdigest() != description["sha256"]:
        problem = "is missing" if data is None else "is damaged: its SHA-256 is not the one in the manifest"
        raise DataError(
            f"{location.name}/{FILE} {problem}. Without it no output can be decoded; build the cache again, with the "
            "teacher."
        )
    state: dict[str, torch.Tensor] = load(data)
    return LastLayer(description["address"], state["weight"], state.get("bias"))
