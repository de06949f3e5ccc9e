"""In which bytes can a teacher's answer be kept, and what does each cost?"""

from __future__ import annotations

from limbeck.store.encodings.dense import BFloat16, Float16, Float32, Quantised
from limbeck.store.encodings.encoding import Decoded, Encoding
from limbeck.store.encodings.error import (
    ErrorRow,
    error_table,
    float16_record_bytes,
    float16_top_k_error,
    kl_error,
    matching_top_k,
)
from limbeck.store.encodings.naming import checked, encoding, make, names
from limbeck.store.encodings.sampling import SampledClasses
from limbeck.store.encodings.specimen import posterior_logits
from limbeck.store.encodings.top_k import TopClasses

__all__ = [
    "BFloat16",
    "Decoded",
    "Encoding",
    "ErrorRow",
    "Float16",
    "Float32",
    "Quantised",
    "SampledClasses",
    "TopClasses",
    "checked",
    "encoding",
    "error_table",
    "float16_record_bytes",
    "float16_top_k_error",
    "kl_error",
    "make",
    "matching_top_k",
    "names",
    "posterior_logits",
]
