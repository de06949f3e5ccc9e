"""Checks of jobs in which a model writes texts: room for new tokens, and an end that can be written."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from limbeck.data import Dataset, RolloutLoader
from limbeck.data.rollout_texts import find_prompts
from limbeck.data.tokenizer import is_encoder_decoder
from limbeck.doctor.context import CheckContext, Finding, fail, passed, warn
from limbeck.doctor.language_checks import new_student
from limbeck.model_call import vocabulary_size
from limbeck.models import read_context_length
from limbeck.teachers import has_other_tokenizer

WRITTEN_TEXTS = "written texts"
_MOST = 4096
"""Prompts that are looked at."""


def check_written_texts(context: CheckContext) -> Finding | None:
    """Check that prompts leave room for new tokens, that the teacher reads all of a text, and that texts can end.

    None if no arm writes texts.
    """
    for loader in _find_rollouts(context):
        prompts = torch.tensor(list(_prompt_lengths(context.train)))
        writer = loader.settings.writer
        model = writer if isinstance(writer, nn.Module) else new_student(context)
        found = (
            _check_ends(loader, model)
            or _check_teachers(context, loader, model, prompts)
            or _check_room(loader, model, prompts)
        )
        if found is not None:
            return found
        config = loader.generation
        end = context.train.tokenizer.convert_ids_to_tokens(config.end_tokens[0])
        return passed(
            WRITTEN_TEXTS, {"prompts": len(prompts), "longest": int(prompts.max())},
            f"Prompts have up to {int(prompts.max()):,} tokens. Behind each of them up to {config.max_new_tokens:,} "
            f"new ones are written, until {end!r}.", f"{config.max_new_tokens:,}",
        )  # fmt: skip
    return None


def _find_rollouts(context: CheckContext) -> Iterator[RolloutLoader]:
    for arm in context.arms:
        for stage in arm.recipe.stages():
            loader = stage.find_loader(arm.loader)
            if isinstance(loader, RolloutLoader):
                yield loader


def _prompt_lengths(examples: Dataset) -> Iterator[int]:
    for index in torch.arange(min(len(examples), _MOST)).split(256):
        yield from (len(prompt) for prompt in find_prompts(examples.take(index)))


def _check_ends(loader: RolloutLoader, model: nn.Module) -> Finding | None:
    ends, size = loader.generation.end_tokens, vocabulary_size(model)
    if not ends:
        return warn(
            WRITTEN_TEXTS, None, "The tokenizer has no end token, so every text is cut off, and the student never "
            "learns to stop. Set tokenizer.eos_token.", "no end",
        )  # fmt: skip
    missing = [end for end in ends if size is not None and end >= size]
    if missing:
        return fail(
            WRITTEN_TEXTS, missing, f"The end token {missing[0]:,} is beyond the {size:,} tokens of the model that "
            "writes, so no text can end. Give the model the vocabulary of its tokenizer.", "no end",
        )  # fmt: skip
    return None


def _check_teachers(
    context: CheckContext, loader: RolloutLoader, model: nn.Module, prompts: torch.Tensor
) -> Finding | None:
    """Check that the teacher can read the longest text that may be written."""
    if has_other_tokenizer(context.teacher):  # it counts tokens of its own
        return None
    own, most = read_context_length(model), loader.generation.max_new_tokens
    longest = int(torch.maximum(prompts, _count_read(model, prompts, most)).max())
    longest = longest if own is None else min(longest, own)
    limits = (read_context_length(network) for network in context.networks.values())
    limit = min((limit for limit in limits if limit is not None), default=longest)
    if limit < longest:
        return fail(
            WRITTEN_TEXTS, longest, f"The teacher reads {limit:,} tokens at most, and a prompt with what is written "
            f"behind it may have {longest:,}. Lower max_new_tokens, or leave out long prompts.",
            f"{limit:,} < {longest:,}",
        )  # fmt: skip
    return None


def _count_read(model: nn.Module, prompts: torch.Tensor, most: int) -> torch.Tensor:
    """The tokens of each text that are read together, at most; the last new one is not."""
    # The decoder of an encoder-decoder does not read the prompt.
    return torch.full_like(prompts, most) if is_encoder_decoder(model) else prompts + most - 1


def _check_room(loader: RolloutLoader, model: nn.Module, prompts: torch.Tensor) -> Finding | None:
    limit, most = read_context_length(model), loader.generation.max_new_tokens
    longest = int(prompts.max())
    if limit is not None and longest > limit:
        return fail(
            WRITTEN_TEXTS, longest, f"{int((prompts > limit).sum()):,} of {len(prompts):,} prompts are longer than the "
            f"{limit:,} tokens that the writer reads, so nothing can be written behind them. Leave them out.",
            f"{longest:,} > {limit:,}",
        )  # fmt: skip
    short = 0 if limit is None else int((_count_read(model, prompts, most) > limit).sum())
    if short:
        return warn(
            WRITTEN_TEXTS, short, f"Behind {short:,} of {len(prompts):,} prompts there is no room for max_new_tokens="
            f"{most:,}, as the writer reads {limit:,} tokens: these texts are cut off earlier.", f"{short:,}",
        )  # fmt: skip
    if int(prompts.median()) < 2:
        return warn(
            WRITTEN_TEXTS, 1, "Most prompts are a single token, as those of plain texts are: what is written has "
            "nothing to do with the data. Use rows of prompt and completion.", "1 token",
        )  # fmt: skip
    return None
