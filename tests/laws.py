"""Kernels and the properties that test_laws checks: one row for each."""

from __future__ import annotations

from limbeck import functional as K
from limbeck.functional import KernelClaim

EXACT = {"zero_at_equality": True, "tolerance": 0.0}
"""The kernels of limbeck are exactly 0, with a gradient of exactly 0, where student and teacher are equal."""

RELATION = {
    **EXACT,
    "student": ("query", "key"),
    "teacher": ("teacher_query", "teacher_key"),
    "shape": (4, 6),
    "positions": 1,
    "hyper": {"heads": 2},
    "logits": False,
}

CLAIMS = {
    "kl_divergence": KernelClaim(K.kl_divergence, **EXACT),
    "kl_divergence hot": KernelClaim(K.kl_divergence, **EXACT, hyper={"temperature": 4.0}),
    "kl_divergence cold": KernelClaim(K.kl_divergence, **EXACT, hyper={"temperature": 0.05}),
    "reverse_kl": KernelClaim(K.reverse_kl, **EXACT, hyper={"temperature": 2.0}),
    "reverse_kl cold": KernelClaim(K.reverse_kl, **EXACT, hyper={"temperature": 0.05}),
    "symmetric_kl": KernelClaim(K.symmetric_kl, **EXACT, hyper={"temperature": 2.0}),
    "symmetric_kl cold": KernelClaim(K.symmetric_kl, **EXACT, hyper={"temperature": 0.05}),
    "total_variation": KernelClaim(K.total_variation, **EXACT, hyper={"temperature": 2.0}),
    "jensen_shannon": KernelClaim(K.jensen_shannon, **EXACT, hyper={"temperature": 2.0}),
    "jensen_shannon at 0": KernelClaim(K.jensen_shannon, **EXACT, hyper={"mixture": 0.0}),
    "jensen_shannon near 0": KernelClaim(K.jensen_shannon, **EXACT, hyper={"mixture": 1e-6}),
    "jensen_shannon near 1": KernelClaim(K.jensen_shannon, **EXACT, hyper={"mixture": 1 - 1e-6}),
    "jensen_shannon at 1": KernelClaim(K.jensen_shannon, **EXACT, hyper={"mixture": 1.0, "temperature": 0.05}),
    "gkd_jensen_shannon": KernelClaim(K.gkd_jensen_shannon, **EXACT, hyper={"mixture": 0.1, "temperature": 2.0}),
    "skew_kl": KernelClaim(K.skew_kl, **EXACT, hyper={"temperature": 2.0}),
    "skew_kl near 0": KernelClaim(K.skew_kl, **EXACT, hyper={"skew": 1e-6, "temperature": 0.05}),
    "skew_reverse_kl": KernelClaim(K.skew_reverse_kl, **EXACT, hyper={"skew": 0.3}),
    "alpha_beta_divergence": KernelClaim(K.alpha_beta_divergence, **EXACT),
    "alpha_beta_divergence hot": KernelClaim(K.alpha_beta_divergence, **EXACT, hyper={"temperature": 4.0}),
    "alpha_beta_divergence cold": KernelClaim(K.alpha_beta_divergence, **EXACT, hyper={"temperature": 0.05}),
    "alpha_beta_divergence forward": KernelClaim(K.alpha_beta_divergence, **EXACT, hyper={"alpha": 1.0, "beta": 0.0}),
    "alpha_beta_divergence reverse": KernelClaim(K.alpha_beta_divergence, **EXACT, hyper={"alpha": 0.0, "beta": 1.0}),
    "alpha_beta_divergence at 0": KernelClaim(K.alpha_beta_divergence, **EXACT, hyper={"alpha": 0.6, "beta": 0.0}),
    "alpha_beta_divergence near 0": KernelClaim(K.alpha_beta_divergence, **EXACT, hyper={"alpha": 1e-6, "beta": 0.9}),
    "alpha_beta_divergence Hellinger": KernelClaim(K.alpha_beta_divergence, **EXACT, hyper={"alpha": 0.5, "beta": 0.5}),
    "alpha_beta_divergence above 1": KernelClaim(K.alpha_beta_divergence, **EXACT, hyper={"alpha": 0.8, "beta": 0.3}),
    "cross_entropy": KernelClaim(K.cross_entropy),
    "label_smoothing": KernelClaim(K.label_smoothing, hyper={"smoothing": 0.2}),
    "label_smoothing at 0": KernelClaim(K.label_smoothing, hyper={"smoothing": 0.0}),
    "label_smoothing at 1": KernelClaim(K.label_smoothing, hyper={"smoothing": 1.0}),
    "squared_error": KernelClaim(K.squared_error, **EXACT, logits=False, largest=1e15),
    "state_squared_error": KernelClaim(K.state_squared_error, **EXACT, logits=False, largest=1e15),
    "logit_squared_error": KernelClaim(K.logit_squared_error, **EXACT, largest=1e15),
    "logit_squared_error plain": KernelClaim(K.logit_squared_error, **EXACT, largest=1e15, hyper={"centered": False}),
    "probability_squared_error": KernelClaim(K.probability_squared_error, **EXACT, hyper={"temperature": 2.0}),
    "target_squared_error": KernelClaim(K.target_squared_error, logits=False, largest=1e15),
    "binary_cross_entropy": KernelClaim(K.binary_cross_entropy, logits=False),
    "binary_kl_divergence": KernelClaim(K.binary_kl_divergence, **EXACT, logits=False, largest=1e15),
    "binary_kl_divergence hot": KernelClaim(
        K.binary_kl_divergence,
        zero_at_equality=True,
        tolerance=0.0,
        logits=False,
        hyper={"temperature": 4.0},
        largest=1e15,
    ),
    "attention_kl": KernelClaim(K.attention_kl, **EXACT, logits=False, shape=(2, 4, 4)),
    "relation_kl": KernelClaim(K.relation_kl, **RELATION, largest=1e12),
    "attention_score_error": KernelClaim(K.attention_score_error, **RELATION, largest=1e7),
    "class_token_distance": KernelClaim(K.class_token_distance, **EXACT, logits=False),
    "class_token_distance of tokens": KernelClaim(K.class_token_distance, **EXACT, logits=False, shape=(3, 5)),
}
