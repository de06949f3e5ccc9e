"""Bytes of a stored token at equal KL error, beside the arithmetic of other toolkits' files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.encoding_errors import exact_top_k_error, posterior_logits
from limbeck.cache.encoding import Encoding
from limbeck.cache.encodings import kl_error, make_encoding
from limbeck.errors import LimbeckError

VOCABULARY = 151_936
"""The vocabulary of Qwen 2.5 and 3."""


class Format(NamedTuple):
    """How another toolkit stores a token.

    Attributes:
        name: The toolkit.
        k: The number of stored classes.
        bytes: Bytes of a token.
        bar: The most bytes of ours, as a multiple of these, at an error that is not larger.
    """

    name: str
    k: int
    bytes: int
    bar: float


FORMATS = (
    Format("Megatron-LM", 128, 528, 0.6),
    Format("DistillKit", 128, 300, 1.0),
    Format("DistillKit", 50, 114, 1.0),
)
"""Megatron-LM: 17 bits an id, and two bytes a value. DistillKit: ids at 18 bits, a few values in bfloat16, and a
polynomial through the others. Each counts as if its k values were exact, which is more than they are."""

TEACHERS = {"unsure": 2.0, "usual": 1.4, "confident": 1.0}
"""The noise of `posterior_logits` with zipf=1 and 400 groups: more noise, flatter distributions."""

_MORE = 24  # classes beyond k that are tried
_BITS = (3, 4, 5)


def bench_token_bytes(
    *, vocabulary: int = VOCABULARY, rows: int = 48, formats: Sequence[Format] = FORMATS,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Find the smallest record whose KL error is at most that of each format with exact values.

    Args:
        vocabulary: The number of classes.
        rows: The number of tokens of each teacher.
        formats: What to compare with.
        say: Gets messages about the progress.

    Returns:
        ``token_bytes``: a row for each teacher and format, with its ``bytes`` and ``kl_error``, our ``encoding``,
        ``our_bytes``, ``our_kl_error``, ``ratio``, ``bar`` and whether it is ``missed``. ``teachers``: the mean entropy
        and the mean largest probability of each. ``others``: bytes of encodings without an error of their own.
    """
    table, teachers = [], []
    for name, noise in TEACHERS.items():
        logits = posterior_logits(rows, vocabulary, zipf=1.0, groups=400, noise=noise)
        p = logits.softmax(-1)
        entropy = float(torch.special.entr(p).sum(-1).mean())
        teachers.append({"teacher": name, "entropy": entropy, "largest": float(p.amax(-1).mean())})
        for theirs in formats:
            say(f"{name}: {theirs.name}, k = {theirs.k}")
            table.append({"teacher": name, **_compare(logits, theirs)})
    return {"token_bytes": table, "teachers": teachers, "others": list(_others(vocabulary))}


def _compare(logits: Float[Tensor, "rows classes"], theirs: Format) -> dict[str, Any]:
    error = exact_top_k_error(logits, theirs.k)
    ours, our_error = smallest_record(logits, theirs.k, error)
    ratio = ours.width / theirs.bytes
    return {
        "format": theirs.name, "k": theirs.k, "bytes": theirs.bytes, "kl_error": error,
        "encoding": ours.spec, "our_bytes": ours.width, "our_kl_error": our_error,
        "ratio": round(ratio, 3), "bar": theirs.bar, "missed": ratio > theirs.bar,
    }  # fmt: skip


def smallest_record(
    logits: Float[Tensor, "rows classes"], k: int, error: float, *, bits: Iterable[int] = _BITS
) -> tuple[Encoding, float]:
    """The smallest ``compact-top-k`` with at most this error, and its error: fewer bits, and a few more classes.

    Raises:
        LimbeckError: If none has.
    """
    classes = logits.shape[1]
    found: list[tuple[Encoding, float]] = []
    for each in bits:
        for more in range(k, min(k + _MORE, classes) + 1):
            one = make_encoding("compact-top-k", classes=classes, k=more, bits=each)
            if found and one.width >= found[0][0].width:
                break
            ours = kl_error(one, logits)
            if ours <= error:
                found.insert(0, (one, ours))
                break
    if not found:
        raise LimbeckError(f"No record of up to {k + _MORE} classes has an error of at most {error:.3g} nats.")
    return found[0]


def _others(vocabulary: int) -> Iterable[dict[str, Any]]:
    """What has no error of its own: unbiased samples, and exact answers through a small layer."""
    sampled = make_encoding("sampled", classes=vocabulary, draws=50)
    yield {"stored": "50 sampled classes: unbiased forward KL", "bytes": sampled.width}
    for width in (1024, 4096):
        yield {"stored": f"hidden states of {width}, float16: every divergence", "bytes": 2 * width}
    yield {"stored": "mean embedding of a frozen student of width 1024, float16: forward KL", "bytes": 2 * 1024 + 8}
