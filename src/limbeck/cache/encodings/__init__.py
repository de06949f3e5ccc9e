"""Encodings of teacher outputs as bytes, and their errors."""

from __future__ import annotations

from limbeck.cache.encodings.dense import BFloat16, Float16, Float32, Quantized
from limbeck.cache.encodings.encoding import Decoded, Encoding
from limbeck.cache.encodings.error import (
    ErrorRow,
    error_table,
    float16_record_bytes,
    float16_top_k_error,
    kl_error,
    matching_top_k,
    posterior_logits,
)
from limbeck.cache.encodings.registry import encoding, encoding_names, make_encoding, validate_encoding
from limbeck.cache.encodings.sampled import SampledClasses
from limbeck.cache.encodings.top_k import TopClasses

__all__ = [
    "BFloat16",
    "Decoded",
    "Encoding",
    "ErrorRow",
    "Float16",
    "Float32",
    "Quantized",
    "SampledClasses",
    "TopClasses",
    "encoding",
    "encoding_names",
    "error_table",
    "float16_record_bytes",
    "float16_top_k_error",
    "kl_error",
    "make_encoding",
    "matching_top_k",
    "posterior_logits",
    "validate_encoding",
]
