"""Benchmark of the training step of a language model: with and without its logits, with and without a teacher."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.interleave import paired_ratio
from limbeck.batch import Progress
from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import StageTrainer, TrainConfig, open_stage
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss, Objective
from limbeck.metrics.compute import peak_on_cpu
from limbeck.optional_imports import import_optional
from limbeck.recipe import Stage
from limbeck.teachers import CachedTeacher


@dataclass(frozen=True)
class LanguageSizes:
    """The sizes of the models and of a batch.

    Attributes:
        vocabulary: The number of tokens, of student and teacher.
        student: Layers and width of the student.
        teacher: Layers and width of the teacher.
        batch: Texts and positions; a quarter of the positions have no label.
        k: The number of stored classes of the teacher.
    """

    vocabulary: int = 50_257
    student: tuple[int, int] = (6, 512)
    teacher: tuple[int, int] = (6, 768)
    batch: tuple[int, int] = (4, 128)
    k: int = 100


SMALL = LanguageSizes(student=(2, 128), teacher=(2, 256), batch=(8, 128))
VOCABULARIES = (1_000, 4_096, 8_192, 16_384)


def bench_lm_step(
    *,
    sizes: LanguageSizes | None = None,
    vocabularies: Sequence[int] = VOCABULARIES,
    rounds: int = 5,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure training steps of a GPT-2 with tied embeddings on one thread of a CPU, in turn.

    Args:
        sizes: The sizes; by default the vocabulary of GPT-2 and a student of 45 million parameters.
        vocabularies: The sizes of the vocabulary for which a small student is measured with and without logits.
        rounds: Number of measurements of each step.
        say: Gets messages about the progress.

    Returns:
        ``steps``: a row for each kind of step with ``seconds`` of processor time and the peak of ``memory_mib`` beyond
        what is held between steps. Ratios of time and memory: ``live_fused_over_dense`` and ``alone_fused_over_dense``
        without the logits over with them, with a teacher that runs and without one; ``stored_over_alone`` with a stored
        top-k teacher over without one, both without logits. ``by_vocabulary``: the first ratio for a small student.

    Raises:
        LimbeckError: If `rounds` is below 1.
    """
    if rounds < 1:
        raise LimbeckError(f"rounds must be at least 1; got {rounds}.")
    sizes, threads = sizes or LanguageSizes(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times, memory = _measure(KINDS, sizes, rounds, say)
        rows = [
            {"step": name, "seconds": round(statistics.median(times[name]), 3), "memory_mib": round(memory[name], 4)}
            for name in KINDS
        ]
        ratios: dict[str, float] = {}
        for key, (one, other) in RATIOS.items():
            ratios[f"{key}_time"] = round(paired_ratio(times[one], times[other]), 3)
            ratios[f"{key}_memory"] = round(memory[one] / memory[other], 3)
        small = [_compare_small(vocabulary, rounds, say) for vocabulary in vocabularies]
    finally:
        torch.set_num_threads(threads)
    return {"steps": rows, **ratios, "by_vocabulary": small, "torch": torch.__version__}


KINDS = ("live dense", "live fused", "alone dense", "alone fused", "stored fused")
"""A live teacher, no teacher, or a stored one; all logits of the student, or none."""

RATIOS = {
    "live_fused_over_dense": ("live fused", "live dense"),
    "alone_fused_over_dense": ("alone fused", "alone dense"),
    "stored_over_alone": ("stored fused", "alone fused"),
}


def _measure(
    kinds: Sequence[str], sizes: LanguageSizes, rounds: int, say: Callable[[str], None]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """The processor times of each kind of step, and the peak of its memory in MiB."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        steps = {name: _open(stack, name, sizes, Path(folder)) for name in kinds}
        for name, step in steps.items():
            say(f"{name}, {sizes.vocabulary:,} tokens: two steps before the clock starts")
            step()
            step()
        times = _time_in_turn(steps, rounds)
        return times, {name: peak_on_cpu(step) / 2**20 for name, step in steps.items()}


def _compare_small(vocabulary: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The time and memory of a small student's step without logits over those with them."""
    kinds = ("live dense", "live fused")
    times, memory = _measure(kinds, replace(SMALL, vocabulary=vocabulary), rounds, say)
    return {
        "vocabulary": vocabulary,
        "time": round(paired_ratio(times["live fused"], times["live dense"]), 3),
        "memory": round(memory["live fused"] / memory["live dense"], 3),
    }


def _open(stack: ExitStack, name: str, sizes: LanguageSizes, folder: Path) -> Callable[[], object]:
    """A function that takes one training step."""
    kind, way = name.split()
    loader = _make_loader(sizes)
    teacher: Any = None if kind == "alone" else _make_gpt2(*sizes.teacher, sizes, seed=1)
    if kind == "stored":
        teacher = CachedTeacher(teacher, folder / "stored", encoding={"name": "top-k", "k": sizes.k})
    objective: Objective = Loss(cross_entropy)
    if teacher is not None:
        objective = 0.5 * objective + 0.5 * Loss(kl_divergence)
    config = TrainConfig(fuse_output_layer=way == "fused")
    models = {"student": _make_gpt2(*sizes.student, sizes, seed=0)}
    trainer: StageTrainer = open_stage(Stage(objective, teacher=teacher, steps=100), models, loader, config)
    stack.enter_context(trainer)
    batch = loader.peek()
    return lambda: trainer.step([batch], Progress(1, 100))


def _make_gpt2(layers: int, width: int, sizes: LanguageSizes, *, seed: int) -> nn.Module:
    transformers = import_optional("transformers", extra="hf")
    config = transformers.GPT2Config(
        vocab_size=sizes.vocabulary, n_positions=sizes.batch[1], n_embd=width, n_layer=layers,
        n_head=max(width // 64, 1), bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model


def _make_loader(sizes: LanguageSizes) -> ShuffledLoader:
    rows, length = sizes.batch
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(sizes.vocabulary, (rows, length + 1), generator=draw)
    mask = torch.rand(rows, length, generator=draw) >= 0.25
    labels = tokens[:, 1:].masked_fill(~mask, -100)
    return ShuffledLoader(ArrayDataset(tokens[:, :-1].contiguous(), labels, mask=mask), batch_size=rows)


def _time_in_turn(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The processor times of each step; in turn, so that other programs slow all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in list(steps)[:: 1 if number % 2 == 0 else -1]:
            began = time.process_time()
            steps[name]()
            times[name].append(time.process_time() - began)
    return times
