"""Texts that a language model writes: settings, draws, and a cache of keys and values."""

from __future__ import annotations

from limbeck.generation.config import Generation, GenerationConfig
from limbeck.generation.generate import check_prompts, generate
from limbeck.generation.sampling import draw_tokens
from limbeck.generation.writers import next_logits

__all__ = ["Generation", "GenerationConfig", "check_prompts", "draw_tokens", "generate", "next_logits"]
