"""Storing the inputs of a teacher's output layer in place of its logits, without loss."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.batch import LOGITS, Outputs
from limbeck.cache import Location, Store, find_manifest
from limbeck.errors import DataError, LimbeckError, unknown
from limbeck.teachers.model import ModelTeacher, TeacherRef
from limbeck.teachers.teacher import Teacher

FILE = "head.safetensors"
_TOLERANCE = 1e-3  # of the logits' range: a bfloat16 product is off by less


class LastLayer(NamedTuple):
    """A teacher's last layer: logits are ``weight @ inputs + bias``.

    Attributes:
        address: Where its inputs are shown.
        weight: ``[classes, features]``.
        bias: ``[classes]``; None where the layer has none.
    """

    address: str
    weight: Tensor
    bias: Tensor | None

    def logits(self, inputs: Tensor) -> Tensor:
        """What the teacher shows where its last layer reads these."""
        weight = self.weight.to(inputs.device, inputs.dtype)
        return F.linear(inputs, weight, None if self.bias is None else self.bias.to(inputs.device, inputs.dtype))

    def check(self, shown: Outputs) -> None:
        """Compare with what the teacher itself shows.

        Raises:
            LimbeckError: If something follows this layer.
        """
        own, ours = shown[LOGITS].float(), self.logits(shown[self.address].float())
        reach = _TOLERANCE * max(float(own.abs().max()), 1.0)
        if own.shape != ours.shape or float((own - ours).abs().max()) > reach:
            raise LimbeckError(
                f"The logits are not what the layer {self.address.removesuffix(':in')!r} puts out: something follows "
                "it. Name the last layer, or leave through= out."
            )


def query_addresses(requires: frozenset[str], head: LastLayer | None) -> frozenset[str]:
    """The addresses that a teacher is asked at where these are needed."""
    return requires if head is None else requires | {head.address}


def stored_addresses(requires: frozenset[str], head: LastLayer | None) -> frozenset[str]:
    """The addresses that are kept where these are needed."""
    if head is None or LOGITS not in requires:
        return requires
    return (requires - {LOGITS}) | {head.address}


def find_last_layer(teacher: Teacher, name: str) -> LastLayer:
    """The last layer of a teacher that is one network.

    Raises:
        LimbeckError: If it is several, or the layer is not there, or no `torch.nn.Linear`.
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
            f"through={name!r} is a layer of one network, and a {type(teacher).__name__} is none: leave it out."
        )
    layers = {n: module for n, module in model.named_modules() if isinstance(module, nn.Linear)}
    if name not in layers:
        raise unknown("Linear layer of the teacher", name, layers)
    layer = layers[name]
    bias = None if layer.bias is None else layer.bias.detach().cpu()
    return LastLayer(f"{name}:in", layer.weight.detach().cpu(), bias)


def describe_head(head: LastLayer) -> tuple[dict[str, Any], bytes]:
    """What a manifest says of the layer, and the file that holds it."""
    data = _bytes(head)
    return {"address": head.address, "sha256": hashlib.sha256(data).hexdigest()}, data


def check_head(store: Store) -> DataError | None:
    """What is wrong with the layer in a store, if there is to be one."""
    told = store.manifest.about.get("head")
    try:
        _ = None if told is None else load_head(store.location, told)
    except DataError as error:
        return error
    return None


def repair_head(place: Location, head: LastLayer) -> None:
    """Write the layer again where a store has lost it, or it was damaged.

    Raises:
        LimbeckError: If the place cannot be written to.
    """
    if find_manifest(place) is not None and check_head(Store(place)) is not None:
        place.put(FILE, _bytes(head))


def _bytes(head: LastLayer) -> bytes:
    from safetensors.torch import save

    return save({"weight": head.weight.contiguous()} | ({} if head.bias is None else {"bias": head.bias.contiguous()}))


def load_head(place: Location, told: Mapping[str, Any]) -> LastLayer:
    """The layer in a store.

    Raises:
        DataError: If it is missing, or not what was written.
    """
    from safetensors.torch import load

    data = place.read(FILE)
    if data is None or hashlib.sha256(data).hexdigest() != told["sha256"]:
        what = "is missing" if data is None else "is damaged: its SHA-256 is not the one in the manifest"
        raise DataError(
            f"{place.name}/{FILE} {what}, and without it no answer can be read: build again, with the teacher."
        )
    state: dict[str, torch.Tensor] = load(data)
    return LastLayer(told["address"], state["weight"], state.get("bias"))
