"""Encodings by name, and the error that they make."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.cache.dense import BFloat16, Float16, Float32, Quantized
from limbeck.cache.encoding import Encoding
from limbeck.cache.likelihoods import Likelihoods
from limbeck.cache.top_k import CompactTopClasses, ListedClasses, MeanEmbeddings, SampledClasses, TopClasses
from limbeck.errors import ArgumentError, nearest, unknown_name_error
from limbeck.group_likelihoods import GroupLikelihoods
from limbeck.mean_embedding import MeanEmbedding
from limbeck.top_k_logits import SampledLogits, TopKLogits

_KNOWN: dict[str, type[Encoding]] = {
    kind.name: kind
    for kind in (
        Float32,
        Float16,
        BFloat16,
        Quantized,
        TopClasses,
        CompactTopClasses,
        SampledClasses,
        ListedClasses,
        MeanEmbeddings,
        Likelihoods,
    )
}

_MANY = 2**31  # an upper bound for the number of classes; making an encoding allocates nothing


def encoding_names() -> list[str]:
    """The names of all encodings."""
    return sorted(_KNOWN)


def make_encoding(name: str, *, classes: int, **parameters: Any) -> Encoding:
    """Make an encoding by name.

    Args:
        name: ``float32``, ``float16``, ``bfloat16``, ``quantized``, ``top-k``, ``sampled``, ``listed``,
            ``mean-embedding`` or ``likelihoods``.
        classes: The number of logits in a row.
        **parameters: The encoding's parameters: ``k=`` and ``bits=`` of ``top-k``, ``draws=`` of ``sampled``, ...

    Raises:
        UnknownNameError: If the name or a parameter is unknown; the nearest one is named.
        LimbeckError: If a parameter is missing or out of its range.

    Example:
        >>> make_encoding("top-k", classes=1000, k=100).width
        213
    """
    if name not in _KNOWN:
        raise unknown_name_error("encoding", str(name), _KNOWN, argument="encoding")
    accepted = {key: value for key, value in inspect.signature(_KNOWN[name]).parameters.items() if key != "classes"}
    for parameter in parameters:
        if parameter not in accepted:
            near = nearest(parameter, accepted) or ""
            raise unknown_name_error(f"parameter of the encoding {name!r}:", parameter, accepted, argument=near)
    absent = [key for key, value in accepted.items() if value.default is value.empty and key not in parameters]
    if absent:
        raise ArgumentError(
            f"The encoding {name!r} needs {absent[0]}: {absent[0]}=50, for example.", argument=absent[0], example="50"
        )
    return _KNOWN[name](classes=classes, **parameters)


def encoding(spec: Mapping[str, Any] | str, *, classes: int) -> Encoding:
    """Make an encoding from a name, or from a mapping with ``name`` and parameters.

    Raises:
        LimbeckError: As for `make_encoding`, or if there is no name.

    Example:
        >>> encoding({"name": "top-k", "k": 100, "bits": 10}, classes=1000).spec
        {'name': 'top-k', 'k': 100, 'bits': 10}
    """
    if isinstance(spec, str):
        return make_encoding(spec, classes=classes)
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise ArgumentError(
            f"An encoding is a name, or a mapping with one: {{'name': 'top-k', 'k': 100}}; got {spec!r}. "
            f"Names: {', '.join(encoding_names())}.",
            argument="encoding",
        )
    return make_encoding(spec["name"], classes=classes, **{key: value for key, value in spec.items() if key != "name"})


def validate_encoding(spec: Mapping[str, Any] | str) -> dict[str, Any]:
    """Validate an encoding and return it with all parameters, before the number of classes is known.

    Raises:
        LimbeckError: As for `encoding`. Whether there are enough classes is checked at the first batch.

    Example:
        >>> validate_encoding({"name": "top-k", "k": 100})
        {'name': 'top-k', 'k': 100, 'bits': 10}
    """
    return encoding(spec, classes=_MANY).spec


def encoding_type(spec: Mapping[str, Any] | str) -> type[Encoding]:
    """The class of an encoding."""
    return type(encoding(spec, classes=_MANY))


_AT_ONCE = 1 << 21


def kl_error(encoding: Encoding, logits: Float[Tensor, "rows classes"], *, temperature: float = 1.0) -> float:
    r"""The mean :math:`KL(p \| \hat p)` in nats between the teacher's output and the decoded one, at a temperature.

    The rest of a top-k record is spread evenly over the other classes. Sampled classes are no distribution, so their
    error is infinite; estimates from them are unbiased, with noise.

    Args:
        encoding: The encoding.
        logits: The teacher's logits on real examples.
        temperature: T of both; the result is not multiplied by T^2.

    Example:
        >>> kl_error(make_encoding("float32", classes=10), torch.randn(5, 10))
        0.0
    """
    total, each = 0.0, max(_AT_ONCE // logits.shape[1], 1)
    for start in range(0, len(logits), each):
        part = logits[start : start + each]
        where = torch.arange(start, start + len(part))
        decoded = encoding.decode(encoding.encode(part, id=where, view=where * 0, position=where * 0))
        if isinstance(decoded, (SampledLogits, MeanEmbedding, GroupLikelihoods)):  # no distribution
            return math.inf
        dense = decoded.spread(temperature) if isinstance(decoded, TopKLogits) else decoded
        total += float(_divergence(part, dense, temperature).sum())
    return total / max(len(logits), 1)


def _divergence(logits: Tensor, decoded: Tensor, temperature: float) -> Float[Tensor, " rows"]:
    log_p = (logits.double() / temperature).log_softmax(-1)
    log_q = (decoded.double() / temperature).log_softmax(-1)
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
