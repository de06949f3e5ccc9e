"""Benchmark of an on-policy step of GKD, with the student's text, beside TRL's GKDTrainer: time and memory."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.interleave import paired_ratio
from limbeck.batch import Progress
from limbeck.data import ArrayDataset, Rollouts, ShuffledLoader
from limbeck.engine import TrainConfig, open_stage
from limbeck.errors import LimbeckError
from limbeck.functional import gkd_jensen_shannon
from limbeck.generation import GenerationConfig
from limbeck.losses import Loss
from limbeck.metrics.compute import peak_on_cpu
from limbeck.optional_imports import import_optional
from limbeck.recipe import Optimizer, Stage

BARS = {"time": 0.3, "memory": 0.3}
"""At most what limbeck may take of TRL's."""
_RATE = 1e-3
_TRL = "GKDTrainer needs trl, accelerate and datasets: pip install trl==1.16.0 accelerate datasets"


@dataclass(frozen=True)
class OnPolicySizes:
    """The sizes of the models and of a batch.

    Attributes:
        vocabulary: The number of tokens.
        student: Layers and width of the student.
        teacher: Layers and width of the teacher.
        prompts: Prompts of a batch, and their tokens.
        new: New tokens of each text. No token ends a text, so that all texts have as many.
    """

    vocabulary: int = 50_257
    student: tuple[int, int] = (2, 32)
    teacher: tuple[int, int] = (2, 64)
    prompts: tuple[int, int] = (8, 16)
    new: int = 32


Step = Callable[[], object]


def bench_on_policy(
    *, sizes: OnPolicySizes | None = None, rounds: int = 5, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure one on-policy step on one thread of a CPU: text of the student, Jensen-Shannon divergence, AdamW.

    Both write with a cache of keys and values, at temperature 1, and take turns. Models, prompts, the number of tokens
    and the learning rate are the same.

    Args:
        sizes: The sizes; by default the vocabulary of GPT-2, and 8 texts of 16 + 32 tokens.
        rounds: Number of measurements of each.
        say: Gets messages about the progress.

    Returns:
        ``steps``: for each toolkit ``seconds`` of processor time, ``tokens_per_second`` (new tokens), and the peak of
        ``memory_mib`` beyond what is held between steps. ``over_trl``: ``time`` and ``memory`` of limbeck over TRL's,
        with ``bars`` and those that are ``missed``. ``skipped``: the toolkits that are not there, with the reason.

    Raises:
        LimbeckError: If `rounds` is below 1.
    """
    if rounds < 1:
        raise LimbeckError(f"rounds must be at least 1; got {rounds}.")
    sizes, threads = sizes or OnPolicySizes(), torch.get_num_threads()
    torch.set_num_threads(1)
    skipped: dict[str, str] = {}
    try:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            steps = {"limbeck": open_limbeck(stack, sizes)}
            try:
                steps["trl"] = open_trl(sizes, Path(folder))
            except ImportError as error:
                skipped["trl"] = f"{_TRL} ({error})"
            rows, ratios = _measure(steps, sizes, rounds, say)
    finally:
        torch.set_num_threads(threads)
    missed = [name for name, bar in BARS.items() if ratios.get(name, 0.0) > bar]
    result = {"steps": rows, "over_trl": ratios, "bars": BARS, "missed": missed, "skipped": skipped}
    return {**result, "torch": torch.__version__}


def _measure(
    steps: Mapping[str, Step], sizes: OnPolicySizes, rounds: int, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    for name, step in steps.items():
        say(f"{name}: two steps before the clock starts")
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in list(steps)[:: 1 if number % 2 == 0 else -1]:
            began = time.process_time()
            steps[name]()
            times[name].append(time.process_time() - began)
    memory = {name: peak_on_cpu(step) / 2**20 for name, step in steps.items()}
    tokens = sizes.prompts[0] * sizes.new
    rows = []
    for name in steps:
        seconds = statistics.median(times[name])
        rate = round(tokens / seconds) if seconds else 0
        rows.append(
            {
                "toolkit": name,
                "seconds": round(seconds, 3),
                "tokens_per_second": rate,
                "memory_mib": round(memory[name], 2),
            }
        )
    if "trl" not in steps:
        return rows, {}
    ratios = {"time": paired_ratio(times["limbeck"], times["trl"]), "memory": memory["limbeck"] / memory["trl"]}
    return rows, {name: round(value, 3) for name, value in ratios.items()}


def make_models(sizes: OnPolicySizes) -> tuple[nn.Module, nn.Module]:
    """The student and the teacher, two GPT-2 of transformers without dropout and without an end token."""
    transformers = import_optional("transformers", extra="hf")
    models = []
    for seed, (layers, width) in enumerate((sizes.student, sizes.teacher)):
        config = transformers.GPT2Config(
            vocab_size=sizes.vocabulary, n_positions=sizes.prompts[1] + sizes.new, n_embd=width, n_layer=layers,
            n_head=2, bos_token_id=None, eos_token_id=None, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            models.append(transformers.GPT2LMHeadModel(config))
    return models[0], models[1]


def make_prompts(sizes: OnPolicySizes) -> torch.Tensor:
    """The prompts of the batch, ``int64 [prompts, tokens]``."""
    return torch.randint(sizes.vocabulary, sizes.prompts, generator=torch.Generator().manual_seed(0))


def open_limbeck(stack: ExitStack, sizes: OnPolicySizes) -> Step:
    """A function that takes a step of limbeck."""
    student, teacher = make_models(sizes)
    prompts = make_prompts(sizes)
    # The data have an answer of one token behind each prompt, which rollouts replace.
    labels = torch.full_like(prompts, -100)
    labels[:, -1] = 0
    inputs = {"input_ids": prompts, "attention_mask": torch.ones_like(prompts)}
    loader = ShuffledLoader(ArrayDataset(inputs, labels, mask=labels >= 0), batch_size=len(prompts))
    rollouts = Rollouts(generation=GenerationConfig(max_new_tokens=sizes.new))(loader)
    stage = Stage(
        Loss(gkd_jensen_shannon), teacher=teacher, steps=1000, loader=rollouts,
        optimizer=Optimizer("adamw", lr=_RATE, decay="constant"),
    )  # fmt: skip
    trainer = stack.enter_context(open_stage(stage, {"student": student}, loader, TrainConfig()))
    batch = rollouts.peek()
    return lambda: trainer.step([rollouts.complete(batch)], Progress(1, 1000))


def open_trl(sizes: OnPolicySizes, folder: Path) -> Step:
    """A function that takes a step of TRL's GKDTrainer, without its logs and checkpoints.

    Raises:
        ImportError: If TRL, or a package that it needs, is not installed.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        student, teacher = make_models(sizes)
        arguments = GKDConfig(
            output_dir=str(folder), lmbda=1.0, beta=0.5, temperature=1.0, max_new_tokens=sizes.new, use_cpu=True,
            report_to=[], bf16=False, learning_rate=_RATE, per_device_train_batch_size=sizes.prompts[0],
            gradient_checkpointing=False,  # with it, text is written without a cache of keys and values
        )  # fmt: skip
        row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
        trainer = GKDTrainer(
            model=student, teacher_model=teacher, args=arguments, processing_class=_make_tokenizer(),
            train_dataset=Dataset.from_list([row]),
        )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1  # its own loop sets it, which would log and save, too
    optimizer = trainer.create_optimizer()
    prompts = make_prompts(sizes)
    batch = {"prompts": prompts, "prompt_attention_mask": torch.ones_like(prompts)}
    batch |= {"input_ids": prompts, "attention_mask": torch.ones_like(prompts), "labels": prompts}

    def step() -> None:
        trainer.training_step(trainer.model, dict(batch))
        optimizer.step()
        optimizer.zero_grad()

    return step


def _make_tokenizer() -> Any:
    """A tokenizer of three words: the trainer asks for the number of its padding token and nothing else."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    transformers = import_optional("transformers", extra="hf")
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "b": 2}, unk_token="[PAD]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", eos_token="[PAD]",
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}",
    )  # fmt: skip
