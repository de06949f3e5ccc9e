"""Students of a teacher with another tokenizer, in bits per byte: alone, with ULD, with ALM, and with one tokenizer."""

from __future__ import annotations

import gzip
import re
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from limbeck.data import TokenDataset, train_byte_level_tokenizer
from limbeck.data.builtin_datasets import data_folders
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.models import seeded
from limbeck.optional_imports import import_optional
from limbeck.recipe import Optimizer, Recipe
from limbeck.tasks import LanguageModeling
from limbeck.teachers import CrossTokenizerTeacher


class TokenizerSizes(NamedTuple):
    """The sizes of the experiment.

    Attributes:
        student_tokens: The vocabulary of the student.
        teacher_tokens: That of the teacher.
        student_width: The width of the student, of one layer.
        teacher_width: The width of the teachers, of two layers.
        window: Tokens of a window.
        share: The share of the training texts that students learn from; teachers learn from all.
        student_epochs: Passes of a student over its texts.
        teacher_epochs: Passes of a teacher over all texts.
        test_texts: The number of test texts.
    """

    student_tokens: int = 400
    teacher_tokens: int = 1000
    student_width: int = 64
    teacher_width: int = 128
    window: int = 64
    share: float = 0.1
    student_epochs: int = 6
    teacher_epochs: int = 1
    test_texts: int = 400


_BATCH = 32


def bench_tokenizers(
    *, seeds: int = 3, sizes: TokenizerSizes | None = None, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Train students of tinyshakespeare with and without teachers, on one thread.

    Args:
        seeds: The number of students of each kind; student and order of the texts have the same seed in all kinds.
        sizes: The sizes.
        say: Called with each result.

    Returns:
        The share of aligned tokens, bits per byte of the teachers, and for each kind the mean of those of its students,
        with the mean, the least and the most of the differences from the student alone.

    Raises:
        LimbeckError: If the texts are missing.
    """
    sizes = sizes or TokenizerSizes()
    torch.set_num_threads(1)
    began = time.process_time()
    train, test = _read_texts(sizes.test_texts)
    some = train[: int(sizes.share * len(train))]
    ours, theirs = (
        train_byte_level_tokenizer(train, vocabulary=size) for size in (sizes.student_tokens, sizes.teacher_tokens)
    )
    parts = {
        name: {part: TokenDataset(texts, tokenizer=tokenizer, max_length=sizes.window)
               for part, texts in (("all", train), ("some", some), ("test", test))}
        for name, tokenizer in (("student", ours), ("teacher", theirs))
    }  # fmt: skip
    teachers, bits = {}, {}
    for name, tokenizer in (("student", ours), ("teacher", theirs)):
        teachers[name] = _train_teacher(tokenizer, parts[name]["all"], sizes)
        bits[name] = _measure(teachers[name], parts[name]["test"])
        say(f"teacher with the {name}'s tokenizer: {bits[name]:.4f} bits per byte")
    other = CrossTokenizerTeacher(teachers["teacher"], ours, theirs)
    kinds: dict[str, Callable[[], Recipe]] = {
        "alone": lambda: make("supervised", task="language_modeling"),
        "uld": lambda: make("uld", teacher=other),
        "alm": lambda: make("alm", teacher=other),
        "alm, groups": lambda: make("alm", teacher=other, boundary_threshold=None),
        "kl, one tokenizer": lambda: make(
            "hinton", teacher=teachers["student"], temperature=1.0, weight=0.5, task="language_modeling"
        ),
    }
    students: dict[str, list[float]] = {}
    for kind, recipe in kinds.items():
        students[kind] = [_train_student(recipe(), ours, parts["student"], sizes, seed) for seed in range(seeds)]
        say(f"{kind}: {statistics.mean(students[kind]):.4f} bits per byte")
    return {
        **_count_aligned(other, parts["student"]["some"]),
        "teacher_with_other_tokenizer": bits["teacher"],
        "teacher_with_one_tokenizer": bits["student"],
        "processor_seconds": round(time.process_time() - began, 1),
        "students": [_summarize(kind, values, students["alone"]) for kind, values in students.items()],
    }


def _read_texts(count: int) -> tuple[list[str], list[str]]:
    """The speeches of tinyshakespeare: those for training, and as many as `count` at the end for tests."""
    places = [folder / "tinyshakespeare" / "input.txt.gz" for folder in data_folders()]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise LimbeckError("Set LIMBECK_DATA to the folder that holds tinyshakespeare/input.txt.gz.")
    whole = gzip.decompress(path.read_bytes()).decode()
    texts = [text for text in re.split(r"\n\n+", whole.strip()) if len(text) > 20]
    return texts[:-count], texts[-count:]


def _make_model(tokenizer: Any, layers: int, width: int, window: int) -> nn.Module:
    hf = import_optional("transformers", extra="hf", purpose="This benchmark")
    model: nn.Module = hf.GPT2LMHeadModel(hf.GPT2Config(
        n_layer=layers, n_head=4, n_embd=width, n_positions=2 * window, vocab_size=len(tokenizer), resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=0,
    ))  # fmt: skip
    return model


def _train_teacher(tokenizer: Any, data: TokenDataset, sizes: TokenizerSizes) -> nn.Module:
    with seeded(1000):
        model = _make_model(tokenizer, 2, sizes.teacher_width, sizes.window)
    recipe = make("supervised", task="language_modeling", epochs=sizes.teacher_epochs)
    return distill(model, recipe, data, batch_size=_BATCH, optimizer=Optimizer(lr=3e-3), seed=1000).finish().student


def _train_student(
    recipe: Recipe, tokenizer: Any, parts: Mapping[str, TokenDataset], sizes: TokenizerSizes, seed: int
) -> float:
    with seeded(seed):
        model = _make_model(tokenizer, 1, sizes.student_width, sizes.window)
    run = distill(
        model, recipe, parts["some"], batch_size=_BATCH, epochs=sizes.student_epochs, optimizer=Optimizer(lr=3e-3),
        seed=seed,
    )  # fmt: skip
    return _measure(run.finish().student, parts["test"])


def _measure(model: nn.Module, data: TokenDataset) -> float:
    """Bits per byte of test texts, each with its end token."""
    return LanguageModeling().fit(data).evaluate(model, data).measures["bits_per_byte"]


def _count_aligned(teacher: CrossTokenizerTeacher, data: TokenDataset) -> dict[str, float]:
    """Tokens in groups among those with a label; groups that begin at a token; tokens of a group."""
    tokens = aligned = groups = single = 0
    for index in torch.arange(len(data)).split(256):
        one = teacher.align(data.take(index))
        tokens, aligned, groups = tokens + one.tokens, aligned + one.aligned_tokens, groups + len(one.count)
        single += int(((one.count == 1) & (one.teacher_count == 1)).sum())
    return {
        "share_of_tokens": aligned / tokens, "groups_per_token": groups / tokens,
        "share_of_groups_of_one_token": single / groups,
    }  # fmt: skip


def _summarize(kind: str, values: list[float], alone: list[float]) -> dict[str, Any]:
    differences = [value - base for value, base in zip(values, alone, strict=True)]
    return {
        "student": kind, "bits_per_byte": round(statistics.mean(values), 4),
        "more_than_alone": round(statistics.mean(differences), 4), "least": round(min(differences), 4),
        "most": round(max(differences), 4),
    }  # fmt: skip
