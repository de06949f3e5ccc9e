"""Bytes and errors of the cache's encodings, on outputs of small language models."""

from __future__ import annotations

from typing import Any

from benchmarks.encoding_errors import error_table, float16_record_bytes, float16_top_k_error, matching_top_k
from benchmarks.language_logits import token_answers, word_answers
from limbeck.cache import kl_error, make_encoding

_KS = (8, 16, 32, 50, 64, 100, 128)


def encoding_figures() -> dict[str, Any]:
    """Measure encodings for a thousand words and for 50,257 tokens, on outputs of models that are trained here.

    Returns:
        ``bytes_per_record_top100_of_1000``: of the encoding ``top-k`` with k = 100; ``kl_error_over_float16_top100``:
        its mean KL from the full output, over that of float16 values of the same classes;
        ``bytes_per_token_over_float16_top50``: bytes of the smallest ``top-k`` whose error is at most that of 50
        float16 values, over theirs with packed ids; ``answers``: the source of the outputs; ``tables``: bytes against
        error for each k.
    """
    words, tokens = word_answers(), token_answers()
    hundred = make_encoding("top-k", classes=words.logits.shape[1], k=100)
    small = matching_top_k(tokens.logits, 50)
    return {
        "bytes_per_record_top100_of_1000": hundred.width,
        "kl_error_over_float16_top100": round(
            kl_error(hundred, words.logits) / float16_top_k_error(words.logits, 100), 4
        ),
        "bytes_per_token_over_float16_top50": round(small.width / float16_record_bytes(50, small.classes), 4),
        "token_encoding": small.spec,
        "answers": {"words": words.source, "tokens": tokens.source},
        "tables": {
            f"{answers.logits.shape[1]:,} classes: {answers.source}": [
                row._asdict() for row in error_table(answers.logits, ks=_KS)
            ]
            for answers in (words, tokens)
        },
    }
