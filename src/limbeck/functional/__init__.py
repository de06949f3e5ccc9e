"""Pure functions of tensors: divergences, squared errors, cross-entropies."""

from __future__ import annotations

from limbeck.functional.across_tokenizers import binary_likelihood_kl, sorted_probability_distance
from limbeck.functional.alpha_beta import alpha_beta_divergence
from limbeck.functional.attention import attention_kl, attention_score_error, class_token_distance, relation_kl
from limbeck.functional.divergence import kl_divergence, probabilities, reverse_kl, symmetric_kl, total_variation
from limbeck.functional.features import (
    logit_squared_error,
    probability_squared_error,
    squared_error,
    state_squared_error,
)
from limbeck.functional.fused_linear import fused_linear_losses
from limbeck.functional.kernel import check_hyper, kernel
from limbeck.functional.kernel_claim import KernelClaim
from limbeck.functional.labels import cross_entropy, label_smoothing
from limbeck.functional.mixture import gkd_jensen_shannon, jensen_shannon, skew_kl, skew_reverse_kl
from limbeck.functional.output_layer import HiddenLogits, OutputLayer
from limbeck.functional.prior import prior_bias
from limbeck.functional.projector import Head, Projector
from limbeck.functional.row_figures import compute_agreement, compute_entropy, compute_mass, compute_overlap
from limbeck.functional.sparse import coarse_logits, sampled_kl_divergence
from limbeck.functional.specialist_pooling import pooled
from limbeck.functional.targets import binary_cross_entropy, binary_kl_divergence, target_squared_error

__all__ = [
    "Head",
    "HiddenLogits",
    "KernelClaim",
    "OutputLayer",
    "Projector",
    "alpha_beta_divergence",
    "attention_kl",
    "attention_score_error",
    "binary_cross_entropy",
    "binary_kl_divergence",
    "binary_likelihood_kl",
    "check_hyper",
    "class_token_distance",
    "coarse_logits",
    "compute_agreement",
    "compute_entropy",
    "compute_mass",
    "compute_overlap",
    "cross_entropy",
    "fused_linear_losses",
    "gkd_jensen_shannon",
    "jensen_shannon",
    "kernel",
    "kl_divergence",
    "label_smoothing",
    "logit_squared_error",
    "pooled",
    "prior_bias",
    "probabilities",
    "probability_squared_error",
    "relation_kl",
    "reverse_kl",
    "sampled_kl_divergence",
    "skew_kl",
    "skew_reverse_kl",
    "sorted_probability_distance",
    "squared_error",
    "state_squared_error",
    "symmetric_kl",
    "target_squared_error",
    "total_variation",
]
