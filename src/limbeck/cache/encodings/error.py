"""The error of an encoding against its bytes, on synthetic logits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.cache.encodings.encoding import Encoding
from limbeck.cache.encodings.registry import make_encoding
from limbeck.cache.encodings.top_k import TopClasses
from limbeck.partial_logits import SampledLogits, TopKLogits


def posterior_logits(
    rows: int, classes: int, *, seed: int = 0, groups: int = 40, zipf: float = 0.0, noise: float = 1.2
) -> Float[Tensor, "rows classes"]:
    r"""Exact log-posteriors (up to a constant) of classes that come in groups, seen through noise.

    Class c lies at :math:`\mu_c`, its group's center plus 0.7 times a standard normal vector, in 32 dimensions. A row
    draws its class with probability :math:`\propto (c + 1)^{-zipf}`, sees :math:`x = \mu_c + \sigma \epsilon` with
    :math:`\log \sigma` normal around ``log(noise)`` with deviation 0.4, and holds :math:`\log \pi_c + (x^T \mu_c -
    |\mu_c|^2 / 2) / \sigma^2`. So some rows are sure and some are not, similar classes get similar logits, and with
    zipf=1 frequent classes are likely as words are: what an ideal classifier, or language model, would answer.

    Args:
        rows: How many.
        classes: How many.
        seed: Another seed gives other classes and rows.
        groups: In how many groups the classes come.
        zipf: 0 for classes that are equally frequent, 1 for words.
        noise: The more, the less sure.
    """
    draw = torch.Generator().manual_seed(seed)
    group = torch.randint(groups, (classes,), generator=draw)
    place = torch.randn(groups, 32, generator=draw)[group] + 0.7 * torch.randn(classes, 32, generator=draw)
    log_prior = -zipf * torch.log(torch.arange(classes) + 1.0)
    own = torch.multinomial(log_prior.exp(), rows, replacement=True, generator=draw)
    spread = noise * torch.exp(0.4 * torch.randn(rows, 1, generator=draw))
    seen = place[own] + spread * torch.randn(rows, 32, generator=draw)
    return log_prior + (seen @ place.T - 0.5 * place.square().sum(-1)) / spread.square()


_AT_ONCE = 1 << 21


def kl_error(encoding: Encoding, logits: Float[Tensor, "rows classes"], *, temperature: float = 1.0) -> float:
    r"""The mean :math:`KL(p \| \hat p)` in nats of the teacher's answer to what is read back, at a temperature.

    The rest of a top-k record is spread evenly over the classes that it does not name. What was sampled is no
    distribution, so its error is infinite: it is unbiased instead, and its price is noise.

    Args:
        encoding: The encoding.
        logits: Of the teacher, on real examples.
        temperature: T of both; not times T^2.

    Example:
        >>> kl_error(make("float32", classes=10), torch.randn(5, 10))
        0.0
    """
    total, each = 0.0, max(_AT_ONCE // logits.shape[1], 1)
    for start in range(0, len(logits), each):
        part = logits[start : start + each]
        where = torch.arange(start, start + len(part))
        found = encoding.decode(encoding.encode(part, id=where, view=where * 0, position=where * 0))
        if isinstance(found, SampledLogits):
            return math.inf
        dense = found.spread(temperature) if isinstance(found, TopKLogits) else found
        total += float(_divergence(part, dense, temperature).sum())
    return total / max(len(logits), 1)


def float16_top_k_error(logits: Float[Tensor, "rows classes"], k: int) -> float:
    """`kl_error` of the plain way: the k largest log-probabilities in float16, the missing mass spread evenly."""
    total, each = 0.0, max(_AT_ONCE // logits.shape[1], 1)
    for part in logits.split(each):
        log_p = part.double().log_softmax(-1)
        found = log_p.topk(k, -1)
        kept = found.values.half().double()
        missing = (1 - kept.exp().sum(-1, keepdim=True)).clamp_min(1e-12) / max(logits.shape[1] - k, 1)
        dense = missing.log().expand(-1, logits.shape[1]).scatter(-1, found.indices, kept)
        total += float(_divergence(part, dense, 1.0).sum())
    return total / max(len(logits), 1)


def float16_record_bytes(k: int, classes: int) -> int:
    """Bytes of the plain way: a float16 for each of k values, and ids packed at as many bits as a class needs."""
    return 2 * k + math.ceil(k * max(classes - 1, 1).bit_length() / 8)


class ErrorRow(NamedTuple):
    """One line of `error_table`: two ways to keep k classes, in bytes a record and nats of `kl_error`."""

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
    found = []
    classes = logits.shape[1]
    for k in ks:
        one = make_encoding("top-k", classes=classes, k=k, bits=bits)
        plain = float16_record_bytes(k, classes), float16_top_k_error(logits, k)
        found.append(ErrorRow(k, bits, one.width, kl_error(one, logits), *plain))
    return found


def matching_top_k(logits: Float[Tensor, "rows classes"], k: int, *, bits: Iterable[int] = (5, 6, 7)) -> TopClasses:
    """The smallest ``top-k`` whose error is at most that of k float16 values: fewer bits a value, a few more classes.

    Example:
        >>> matching_top_k(5 * torch.randn(20, 5000), 20).width < float16_record_bytes(20, 5000)
        True
    """
    classes, wanted = logits.shape[1], float16_top_k_error(logits, k)
    found = []
    for each in bits:
        tried = (TopClasses(classes=classes, k=more, bits=each) for more in range(k, classes + 1))
        found.append(next(one for one in tried if one.k == classes or kl_error(one, logits) <= wanted))
    return min(found, key=lambda one: one.width)


def _divergence(logits: Tensor, found: Tensor, temperature: float) -> Float[Tensor, " rows"]:
    log_p = (logits.double() / temperature).log_softmax(-1)
    log_q = (found.double() / temperature).log_softmax(-1)
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
