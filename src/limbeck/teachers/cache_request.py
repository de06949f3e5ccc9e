"""The request of a stage to a cache: addresses, layouts, keys, and the output layer stored in place of logits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs
from limbeck.cache import (
    CacheReader,
    Column,
    Encoding,
    Keys,
    Location,
    Manifest,
    TeacherProvenance,
    encoding,
    find_manifest,
)
from limbeck.errors import DataError, LimbeckError, unknown_name_error
from limbeck.functional import OutputLayer
from limbeck.model_call import find_output_layer, get_output_layer
from limbeck.teachers.model import ModelTeacher
from limbeck.teachers.teacher import Teacher, TeacherFn
from limbeck.top_k_logits import PartialLogits

_ITSELF = -1  # the view number of an example that is not augmented


def view_numbers(batch: Batch) -> NDArray[np.int64] | int:
    """The view number of each example in a batch; -1 for examples that are not augmented."""
    return _ITSELF if batch.view is None else batch.view.cpu().numpy()


def batch_keys(batch: Batch, counted: Tensor | None) -> Keys:
    """The keys under which a batch's outputs are stored, at the positions `counted` (`stored_positions`)."""
    lengths, view = None if counted is None else counted.sum(1), view_numbers(batch)
    id = batch.id.cpu().numpy() if batch.id is not None else np.empty(0, np.int64)
    views = np.full(len(id), view) if isinstance(view, int) else view
    return Keys(id, views, None if lengths is None else lengths.numpy())


def stored_positions(batch: Batch, masks: Iterable[str] = ()) -> Tensor | None:
    """The positions of each example that are stored, ``bool [batch, positions]``.

    These are the positions where a mask is true: ``Batch.mask``, or one of the names in `masks`. An example without any
    stores its first position. The result does not depend on the side of the padding or on the length of the other
    texts in the batch.
    """
    if batch.mask is None or batch.mask.ndim < 2:
        return None
    counted = batch.mask.bool().flatten(2).any(-1) if batch.mask.ndim > 2 else batch.mask.bool()
    counted = counted.cpu()
    for name in masks:
        if (other := batch.find_mask(name)) is not None:
            counted = counted | other.cpu().bool()
    none = ~counted.any(1)
    if bool(none.any()):
        counted = counted.clone()
        counted[none, 0] = True
    return counted


_FEATURES = "float16"


class CacheRequest(NamedTuple):
    """The request of a stage to a cache.

    Attributes:
        requires: The addresses that the stage reads.
        extra: Further addresses that a new cache stores, for other stages.
        origin: The teacher, data and preprocessing of the outputs. Its precision and encodings are set at the first
            batch.
        encoding: How logits are stored.
        classes: The dimension of the logits that holds the classes.
        head: The layer whose inputs are stored in place of the logits.
        batch_size: The batch size in which the teacher is run.
        about: The description that a new cache gets in its manifest.
        shard_bytes: The size of a shard in bytes.
        checks_inputs: Whether inputs are compared with those that were stored. A loader that may return other inputs
            under the same ids needs this.
        keeps_inputs: Whether a new cache has the inputs too.
        masks: The names of the masks at whose positions a new cache stores outputs, besides ``Batch.mask``.
    """

    requires: frozenset[str]
    extra: frozenset[str]
    origin: TeacherProvenance
    encoding: Mapping[str, Any]
    classes: int
    head: LastLayer | None
    batch_size: int
    about: Mapping[str, Any]
    shard_bytes: int
    checks_inputs: bool = False
    keeps_inputs: bool = False
    masks: tuple[str, ...] = ()

    @property
    def read(self) -> frozenset[str]:
        """The addresses that are read from the cache."""
        return stored_addresses(self.requires, self.head)

    @property
    def stored(self) -> frozenset[str]:
        """The addresses that a new cache stores."""
        return stored_addresses(self.requires | self.extra, self.head)

    def column(self, address: str, outputs: Tensor | PartialLogits, counted: Tensor | None) -> Column:
        """The layout of outputs like these.

        Args:
            address: The address of the outputs.
            outputs: The teacher's outputs for a batch.
            counted: Which positions of each example count, where that differs between examples.

        Raises:
            LimbeckError: If there is one number for each example, or the dimension of the classes does not exist.
        """
        axis, dimensions = self.classes if address == LOGITS else -1, len(outputs.shape)
        if not -dimensions <= axis < dimensions:
            raise LimbeckError(f"classes={axis} is no dimension of logits of the shape {list(outputs.shape)}.")
        if dimensions < 2:
            raise LimbeckError(f"At {address!r} there is one number for each example; a cache needs [batch, classes].")
        if not isinstance(outputs, Tensor) and axis % dimensions != dimensions - 1:
            raise LimbeckError(f"Partial logits have the classes last; leave classes={axis} out.")
        shape = outputs.movedim(axis, -1).shape if isinstance(outputs, Tensor) else outputs.shape
        own = self.encoding_at(address, shape[-1])
        if counted is not None and len(shape) > 2:
            return Column(own, None, tuple(shape[2:-1]), axis)
        if not self._is_encoded(address):
            whole = tuple(outputs.shape[1:])
            return Column(self.encoding_at(address, math.prod(whole)), (), (), -1, whole)
        return Column(own, tuple(shape[1:-1]), (), axis)

    def encoding_at(self, address: str, classes: int) -> Encoding:
        """The encoding of one row: the chosen one for logits (or the head's inputs), float16 for features."""
        return encoding(self.encoding if self._is_encoded(address) else _FEATURES, classes=classes)

    def _is_encoded(self, address: str) -> bool:
        return address == LOGITS or (self.head is not None and address == self.head.address)


def predict_padded(teacher_fn: TeacherFn, batch: Batch, size: int) -> Outputs:
    """The teacher's outputs for a batch, computed in a batch of at least `size` examples.

    A smaller batch, such as the last one of an epoch, is padded with its own examples. The last bits of a matrix
    product depend on the number of rows, and a stored output should not depend on the batch that the example was in.
    (On a CPU, in batches of fewer than eight examples, they may also depend on the position in the batch.)

    Args:
        teacher_fn: The function that `Teacher.prepare` returned.
        batch: The examples.
        size: The size of the other batches.
    """
    if batch.size >= size:
        return teacher_fn(batch)
    padded = batch.rows(torch.arange(size, device=_device(batch)) % batch.size)
    outputs = teacher_fn(padded)
    every: dict[str, Any] = {**outputs, **outputs.partial}
    return Outputs.of({address: output[: batch.size] for address, output in every.items()})


@contextmanager
def explain_first_batch_error(teacher: Teacher, batch: Batch) -> Iterator[None]:
    """A context that turns an error of the network on its first batch into one that says what to change.

    Raises:
        LimbeckError: In place of the network's error.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        inputs = batch.inputs
        kind = f"{str(inputs.dtype).removeprefix('torch.')} {[*inputs.shape]}" if isinstance(inputs, Tensor) else ""
        message = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise LimbeckError(
            f"The teacher ({type(teacher).__name__}) cannot be run on a batch of {kind or type(inputs).__name__}: "
            f"{message}. Pass preprocess=, the function from a batch to the teacher's inputs, to fill_cache(), "
            "distill() or ModelTeacher(). Examples are data.preprocess of a data set, "
            'lb.load_preprocess("teacher") of a student\'s folder, and '
            "lb.NormalizeImages(mean=..., std=...) for bytes."
        ) from error


def _device(batch: Batch) -> torch.device:
    return batch.id.device if batch.id is not None else torch.device("cpu")


HEAD_FILE = "head.safetensors"
_TOLERANCE = 1e-3  # relative to the range of the logits; the error of a bfloat16 product is smaller


class LastLayer(NamedTuple):
    """A teacher's last layer.

    Attributes:
        address: The address of its inputs.
        layer: Its weights, and the bound and the factor of the logits that follow it.
        is_output: Whether it is the output layer that limbeck finds in the model, whose logits need not be computed.
    """

    address: str
    layer: OutputLayer
    is_output: bool = False

    def on(self, device: torch.device) -> OutputLayer:
        """The layer on a device, in float32."""
        bias = None if self.layer.bias is None else self.layer.bias.to(device, torch.float32)
        return self.layer._replace(weight=self.layer.weight.to(device, torch.float32), bias=bias)

    def logits(self, inputs: Tensor) -> Tensor:
        """The logits for these inputs of the layer."""
        return self.on(inputs.device).logits(inputs.float())

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


def stored_masks(manifest: Manifest) -> tuple[str, ...]:
    """The names of the masks at whose positions a cache has outputs, besides ``Batch.mask``."""
    return tuple(manifest.about.get("masks", ()))


def query_addresses(requires: frozenset[str], head: LastLayer | None) -> frozenset[str]:
    """The addresses that the teacher has to compute for these."""
    return requires if head is None else requires | {head.address}


def stored_addresses(requires: frozenset[str], head: LastLayer | None) -> frozenset[str]:
    """The addresses that the cache has to store for these."""
    if head is None or LOGITS not in requires:
        return requires
    return (requires - {LOGITS}) | {head.address}


def find_last_layer(teacher: Teacher, name: str) -> LastLayer:
    """The last layer of a teacher that is a single network, with what its configuration says of the logits.

    Raises:
        LimbeckError: If the teacher is no single network, or has no `torch.nn.Linear` of that name.
    """
    if not isinstance(teacher, ModelTeacher):
        raise LimbeckError(
            f"through={name!r} names a layer of a network, and a {type(teacher).__name__} is no network. Leave it out."
        )
    layers = {n: module for n, module in teacher.model.named_modules() if isinstance(module, nn.Linear)}
    if name not in layers:
        raise unknown_name_error("Linear layer of the teacher", name, layers)
    found = find_output_layer(teacher.model)
    whole = get_output_layer(teacher.model) if found is not None and found[1] is layers[name] else None
    layer = (whole or OutputLayer(layers[name].weight, layers[name].bias)).detach()
    bias = None if layer.bias is None else layer.bias.cpu()
    return LastLayer(f"{name}:in", layer._replace(weight=layer.weight.cpu(), bias=bias), whole is not None)


def describe_head(head: LastLayer) -> tuple[dict[str, Any], bytes]:
    """The layer's entry in a manifest, and the content of its file."""
    data = _to_bytes(head)
    after = {"softcap": head.layer.softcap, "scale": head.layer.scale}
    own = {} if head.layer.softcap is None and head.layer.scale == 1 else after
    return {"address": head.address, "sha256": hashlib.sha256(data).hexdigest(), **own}, data


def check_head(store: CacheReader) -> DataError | None:
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
    if find_manifest(location) is not None and check_head(CacheReader(location)) is not None:
        location.put(HEAD_FILE, _to_bytes(head))


def _to_bytes(head: LastLayer) -> bytes:
    from safetensors.torch import save

    weight, bias = head.layer.weight, head.layer.bias
    return save({"weight": weight.contiguous()} | ({} if bias is None else {"bias": bias.contiguous()}))


def load_head(location: Location, description: Mapping[str, Any]) -> LastLayer:
    """Load the last layer from a cache.

    Raises:
        DataError: If the file is missing or damaged.
    """
    from safetensors.torch import load

    data = location.read(HEAD_FILE)
    if data is None or hashlib.sha256(data).hexdigest() != description["sha256"]:
        problem = "is missing" if data is None else "is damaged: its SHA-256 is not the one in the manifest"
        raise DataError(
            f"{location.name}/{HEAD_FILE} {problem}. Without it no output can be decoded; build the cache again, with "
            "the teacher."
        )
    state: dict[str, torch.Tensor] = load(data)
    after = description.get("softcap"), description.get("scale", 1.0)
    return LastLayer(description["address"], OutputLayer(state["weight"], state.get("bias"), *after))
