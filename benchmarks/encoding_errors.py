"""Error of encodings against their bytes, on synthetic logits, beside float16 values with packed ids."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.cache.encodings import kl_error, make_encoding
from limbeck.cache.top_k import TopClasses

_AT_ONCE = 1 << 21


def posterior_logits(
    rows: int, classes: int, *, seed: int = 0, groups: int = 40, zipf: float = 0.0, noise: float = 1.2
) -> Float[Tensor, "rows classes"]:
    r"""Exact log-posteriors (up to a constant) of classes in groups, observed with noise.

    Class c lies at :math:`\mu_c`, its group's center plus 0.7 times a standard normal vector, in 32 dimensions. A row
    draws its class with probability :math:`\propto (c + 1)^{-zipf}`, observes :math:`x = \mu_c + \sigma \epsilon` with
    :math:`\log \sigma` normal around ``log(noise)`` with deviation 0.4, and contains
    :math:`\log \pi_c + (x^T \mu_c - |\mu_c|^2 / 2) / \sigma^2`. So some rows are confident and some are not,
    similar classes have similar logits, and with zipf=1 the class frequencies are those of words: outputs of an ideal
    classifier or language model.

    Args:
        rows: The number of rows.
        classes: The number of classes.
        seed: The seed of classes and rows.
        groups: The number of groups of classes.
        zipf: 0 for equally frequent classes, 1 for frequencies like those of words.
        noise: The noise level; more noise gives less confident rows.
    """
    draw = torch.Generator().manual_seed(seed)
    group = torch.randint(groups, (classes,), generator=draw)
    center = torch.randn(groups, 32, generator=draw)[group] + 0.7 * torch.randn(classes, 32, generator=draw)
    log_prior = -zipf * torch.log(torch.arange(classes) + 1.0)
    own = torch.multinomial(log_prior.exp(), rows, replacement=True, generator=draw)
    spread = noise * torch.exp(0.4 * torch.randn(rows, 1, generator=draw))
    observed = center[own] + spread * torch.randn(rows, 32, generator=draw)
    return log_prior + (observed @ center.T - 0.5 * center.square().sum(-1)) / spread.square()


def float16_top_k_error(logits: Float[Tensor, "rows classes"], k: int) -> float:
    """`kl_error` of a simple encoding: the k largest log-probabilities in float16, the missing mass spread evenly."""
    return _top_k_error(logits, k, torch.float16)


def exact_top_k_error(logits: Float[Tensor, "rows classes"], k: int) -> float:
    """`kl_error` of the k largest log-probabilities without rounding, the missing mass spread evenly."""
    return _top_k_error(logits, k, torch.float64)


def _top_k_error(logits: Float[Tensor, "rows classes"], k: int, dtype: torch.dtype) -> float:
    total, each = 0.0, max(_AT_ONCE // logits.shape[1], 1)
    for part in logits.split(each):
        log_p = part.double().log_softmax(-1)
        top = log_p.topk(k, -1)
        values = top.values.to(dtype).double()
        missing = (1 - values.exp().sum(-1, keepdim=True)).clamp_min(1e-12) / max(logits.shape[1] - k, 1)
        dense = missing.log().expand(-1, logits.shape[1]).scatter(-1, top.indices, values)
        total += float(_divergence(part, dense).sum())
    return total / max(len(logits), 1)


def float16_record_bytes(k: int, classes: int) -> int:
    """Bytes of the simple encoding: a float16 for each of k values, and class ids at the smallest number of bits."""
    return 2 * k + math.ceil(k * max(classes - 1, 1).bit_length() / 8)


class ErrorRow(NamedTuple):
    """One line of `error_table`: two encodings of k classes, with bytes of a record and `kl_error` in nats."""

    k: int
    bits: int
    bytes: int
    kl_error: float
    float16_bytes: int
    float16_kl_error: float


def error_table(
    logits: Float[Tensor, "rows classes"], *, ks: Iterable[int] = (8, 16, 32, 50, 64, 100, 128), bits: int = 6
) -> list[ErrorRow]:
    """Bytes against error of ``top-k`` for several k, beside float16 values with packed ids.

    Example:
        >>> [row.bytes < row.float16_bytes for row in error_table(torch.randn(4, 5000), ks=(32, 64))]
        [True, True]
    """
    table = []
    classes = logits.shape[1]
    for k in ks:
        encoding = make_encoding("top-k", classes=classes, k=k, bits=bits)
        plain = float16_record_bytes(k, classes), float16_top_k_error(logits, k)
        table.append(ErrorRow(k, bits, encoding.width, kl_error(encoding, logits), *plain))
    return table


def matching_top_k(logits: Float[Tensor, "rows classes"], k: int, *, bits: Iterable[int] = (5, 6, 7)) -> TopClasses:
    """The smallest ``top-k`` encoding whose error is at most that of k float16 values: fewer bits, a few more classes.

    Example:
        >>> matching_top_k(5 * torch.randn(20, 5000), 20).width < float16_record_bytes(20, 5000)
        True
    """
    classes, bound = logits.shape[1], float16_top_k_error(logits, k)
    matches = []
    for each in bits:
        candidates = (TopClasses(classes=classes, k=more, bits=each) for more in range(k, classes + 1))
        matches.append(next(c for c in candidates if c.k == classes or kl_error(c, logits) <= bound))
    return min(matches, key=lambda match: match.width)


def _divergence(logits: Tensor, decoded: Tensor) -> Float[Tensor, " rows"]:
    log_p, log_q = logits.double().log_softmax(-1), decoded.double().log_softmax(-1)
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
