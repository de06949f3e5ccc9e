"""Kernels and the properties that test_laws checks: one row for each."""

from __future__ import annotations

from limbeck import functional as K
from limbeck.testing import Claim

EXACT = {"zero_at_equality": True, "tolerance": 0.0}
"""The kernels of limbeck are exactly 0, with a gradient of exactly 0, where student and teacher are equal."""

CLAIMS = {
    "kl_divergence": Claim(K.kl_divergence, **EXACT),
    "kl_divergence hot": Claim(K.kl_divergence, **EXACT, hyper={"temperature": 4.0}),
    "kl_divergence cold": Claim(K.kl_divergence, **EXACT, hyper={"temperature": 0.05}),
    "reverse_kl": Claim(K.reverse_kl, **EXACT, hyper={"temperature": 2.0}),
    "reverse_kl cold": Claim(K.reverse_kl, **EXACT, hyper={"temperature": 0.05}),
    "total_variation": Claim(K.total_variation, **EXACT, hyper={"temperature": 2.0}),
    "jensen_shannon": Claim(K.jensen_shannon, **EXACT, hyper={"temperature": 2.0}),
    "jensen_shannon at 0": Claim(K.jensen_shannon, **EXACT, hyper={"mixture": 0.0}),
    "jensen_shannon near 0": Claim(K.jensen_shannon, **EXACT, hyper={"mixture": 1e-6}),
    "jensen_shannon near 1": Claim(K.jensen_shannon, **EXACT, hyper={"mixture": 1 - 1e-6}),
    "jensen_shannon at 1": Claim(K.jensen_shannon, **EXACT, hyper={"mixture": 1.0, "temperature": 0.05}),
    "gkd_jensen_shannon": Claim(K.gkd_jensen_shannon, **EXACT, hyper={"mixture": 0.1, "temperature": 2.0}),
    "skew_kl": Claim(K.skew_kl, **EXACT, hyper={"temperature": 2.0}),
    "skew_kl near 0": Claim(K.skew_kl, **EXACT, hyper={"skew": 1e-6, "temperature": 0.05}),
    "skew_reverse_kl": Claim(K.skew_reverse_kl, **EXACT, hyper={"skew": 0.3}),
    "alpha_beta_divergence": Claim(K.alpha_beta_divergence, **EXACT),
    "alpha_beta_divergence hot": Claim(K.alpha_beta_divergence, **EXACT, hyper={"temperature": 4.0}),
    "alpha_beta_divergence cold": Claim(K.alpha_beta_divergence, **EXACT, hyper={"temperature": 0.05}),
    "alpha_beta_divergence forward": Claim(K.alpha_beta_divergence, **EXACT, hyper={"alpha": 1.0, "beta": 0.0}),
    "alpha_beta_divergence reverse": Claim(K.alpha_beta_divergence, **EXACT, hyper={"alpha": 0.0, "beta": 1.0}),
    "alpha_beta_divergence at 0": Claim(K.alpha_beta_divergence, **EXACT, hyper={"alpha": 0.6, "beta": 0.0}),
    "alpha_beta_divergence near 0": Claim(K.alpha_beta_divergence, **EXACT, hyper={"alpha": 1e-6, "beta": 0.9}),
    "alpha_beta_divergence Hellinger": Claim(K.alpha_beta_divergence, **EXACT, hyper={"alpha": 0.5, "beta": 0.5}),
    "alpha_beta_divergence above 1": Claim(K.alpha_beta_divergence, **EXACT, hyper={"alpha": 0.8, "beta": 0.3}),
    "cross_entropy": Claim(K.cross_entropy),
    "label_smoothing": Claim(K.label_smoothing, hyper={"smoothing": 0.2}),
    "label_smoothing at 0": Claim(K.label_smoothing, hyper={"smoothing": 0.0}),
    "label_smoothing at 1": Claim(K.label_smoothing, hyper={"smoothing": 1.0}),
    "squared_error": Claim(K.squared_error, **EXACT, logits=False, largest=1e15),
    "state_squared_error": Claim(K.state_squared_error, **EXACT, logits=False, largest=1e15),
    "logit_squared_error": Claim(K.logit_squared_error, **EXACT, largest=1e15),
    "logit_squared_error plain": Claim(K.logit_squared_error, **EXACT, largest=1e15, hyper={"centered": False}),
    "probability_squared_error": Claim(K.probability_squared_error, **EXACT, hyper={"temperature": 2.0}),
    "target_squared_error": Claim(K.target_squared_error, logits=False, largest=1e15),
    "binary_cross_entropy": Claim(K.binary_cross_entropy, logits=False),
    "binary_kl_divergence": Claim(K.binary_kl_divergence, **EXACT, logits=False, largest=1e15),
    "binary_kl_divergence hot": Claim(
        K.binary_kl_divergence,
        zero_at_equality=True,
        tolerance=0.0,
        logits=False,
        hyper={"temperature": 4.0},
        largest=1e15,
    ),
}
