"""GSM8K on a GPU: pretrained models from folders, and the share of right answers."""

from __future__ import annotations

import gzip
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.data import Rollouts, ShuffledLoader, TokenDataset
from limbeck.data.builtin_datasets import data_folders
from limbeck.engine import distill
from limbeck.errors import DataError
from limbeck.functional import cross_entropy, jensen_shannon, kl_divergence
from limbeck.generation import GenerationConfig, generate
from limbeck.losses import Loss
from limbeck.metrics.statistics import compare_scores
from limbeck.optional_imports import import_optional, install_command, is_installed
from limbeck.papers.claim import ClaimResult, judge_difference
from limbeck.papers.experiment import Experiment, ExperimentScale, Figures, Row, TaskFolder
from limbeck.random_seeds import counter_order
from limbeck.recipe import Optimizer, Stage
from limbeck.task_runner import WorkItem

TEACHER, STUDENT = "LIMBECK_GSM8K_TEACHER", "LIMBECK_GSM8K_STUDENT"
"""Environment variables: the folders of two causal models of transformers with one tokenizer, as `from_pretrained`
reads them. No weights are downloaded."""
ARMS = ("labels", "supervised KD", "on-policy JSD")
_ANSWER = re.compile(r"####\s*(-?[\d,]+(?:\.\d+)?)")


@dataclass(frozen=True)
class ProblemScale:
    """The sizes.

    Attributes:
        tuning: Steps of cross-entropy of the teacher, and of the start of the students.
        steps: Steps of an arm after that.
        batch: Problems of a batch.
        prompts: The number of training problems of the students.
        test: The number of test problems.
        new: The most new tokens of an answer.
        device: The accelerator.
    """

    tuning: int = 400
    steps: int = 400
    batch: int = 16
    prompts: int = 2000
    test: int = 500
    new: int = 200
    device: str = "cuda"


def _find(part: str) -> Path | None:
    files = [folder / "gsm8k" / f"{part}.jsonl.gz" for folder in data_folders(None)]
    return next((file for file in files if file.is_file()), None)


def why_skipped(scale: ExperimentScale) -> str:
    """The reason why GSM8K is left out; empty if it is not."""
    if scale.quick:
        return "GSM8K is part of --scale full."
    if not torch.cuda.is_available():
        return "This machine has no GPU that PyTorch can use."
    if not is_installed("transformers"):
        return f"Its models need transformers; type: {install_command('hf')}"
    for name in (TEACHER, STUDENT):
        if not Path(os.environ.get(name, "")).is_dir() or not os.environ.get(name):
            return f"Set {name} to the folder of a pretrained causal language model."
    if _find("train") is None or _find("test") is None:
        return f"Put gsm8k/train.jsonl.gz and gsm8k/test.jsonl.gz into {data_folders(None)[0]}, or set LIMBECK_DATA."
    return ""


def read_problems(part: str) -> list[dict[str, str]]:
    """Read the problems as prompts and completions.

    Raises:
        DataError: If the file is missing.
    """
    file = _find(part)
    if file is None:
        raise DataError(f"gsm8k/{part}.jsonl.gz is not in {', '.join(map(str, data_folders(None)))}.")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [{"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}"} for row in rows]


def read_answer(text: str) -> str | None:
    r"""The number behind ``####``, without commas; None if there is none.

    Example:
        >>> read_answer("3 + 4 = 7 #### 1,007"), read_answer("seven")
        ('1007', None)
    """
    found = _ANSWER.search(text)
    return found.group(1).replace(",", "").removesuffix(".0") if found else None


# --- tasks ----------------------------------------------------------------------------------------------------------


def tune(folder: TaskFolder, *, variable: str, scale: ProblemScale, seed: int) -> Figures:
    """Train a pretrained model on the given answers by cross-entropy, and save it."""
    model, tokenizer = _open(os.environ[variable])
    problems = read_problems("train")
    if variable == STUDENT:
        problems = _choose(problems, scale, seed)
    stage = Stage(Loss(cross_entropy), steps=scale.tuning)
    _distill(model, stage, problems, tokenizer, scale, seed).finish()
    model.save_pretrained(folder.folder / "model")
    tokenizer.save_pretrained(folder.folder / "model")
    return measure(model, tokenizer, scale, seed=seed)


def study(folder: TaskFolder, *, arm: str, scale: ProblemScale, seed: int, start: str, teacher: str) -> Figures:
    """Train one student, and measure it."""
    student, tokenizer = _open(folder.of(start) / "model")
    models = {"student": student}
    objective = Loss(cross_entropy)
    if arm != "labels":
        models["teacher"] = _open(folder.of(teacher) / "model")[0]
        objective = Loss(kl_divergence) if arm == "supervised KD" else Loss(jensen_shannon)
    loader = Rollouts(generation=_sampling(tokenizer, scale)) if arm == "on-policy JSD" else None
    stage = Stage(objective, teacher=None if arm == "labels" else "teacher", steps=scale.steps, loader=loader)
    began = time.perf_counter()
    _distill(models, stage, _choose(read_problems("train"), scale, seed), tokenizer, scale, seed).finish()
    seconds = time.perf_counter() - began
    return {**measure(student, tokenizer, scale, seed=seed), "seconds": seconds}


def _open(folder: str | Path) -> tuple[Any, Any]:
    transformers = import_optional("transformers", extra="hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return model, tokenizer


def _choose(problems: list[dict[str, str]], scale: ProblemScale, seed: int) -> list[dict[str, str]]:
    order = counter_order(len(problems), seed=seed, epoch=0, stream="problems")[: scale.prompts]
    return [problems[i] for i in order.tolist()]


def _distill(models: Any, stage: Stage, problems: Any, tokenizer: Any, scale: ProblemScale, seed: int) -> Any:
    data = TokenDataset(problems, tokenizer=tokenizer, max_length=512, too_long="drop")
    loader = ShuffledLoader(data, batch_size=scale.batch, seed=seed, drop_last=True)
    optimizer = Optimizer("adamw", lr=2e-5, warmup=20, clip=1.0)
    precision = "bf16-mixed" if scale.device == "cuda" else "32-true"
    return distill(models, stage, loader, optimizer=optimizer, seed=seed, accelerator=scale.device, precision=precision)


def _sampling(tokenizer: Any, scale: ProblemScale, temperature: float = 1.0) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=scale.new, eos_token_id=tokenizer.eos_token_id, temperature=temperature)


def measure(model: nn.Module, tokenizer: Any, scale: ProblemScale, *, seed: int) -> Figures:
    """The percentage of right answers on test problems, sampled at temperature 1 and greedy; ``scores`` by problem."""
    problems = read_problems("test")[: scale.test]
    prompts = [tokenizer(row["prompt"], return_tensors="pt")["input_ids"][0] for row in problems]
    scores: dict[str, list[float]] = {}
    for name, temperature in (("right", 1.0), ("greedy", 0.0)):
        answers: list[str] = []
        for begin in range(0, len(prompts), 64):
            some = prompts[begin : begin + 64]
            ids = torch.arange(begin, begin + len(some))
            written = generate(model, some, _sampling(tokenizer, scale, temperature), ids=ids, seed=seed)
            answers += [tokenizer.decode(text, skip_special_tokens=True) for text in written.texts]
        right = [read_answer(own) is not None and read_answer(own) == read_answer(row["completion"])
                 for own, row in zip(answers, problems, strict=True)]  # fmt: skip
        scores[name] = [float(one) for one in right]
    return {**{name: 100 * sum(one) / len(one) for name, one in scores.items()}, "scores": scores}


# --- tasks and rows of the table ------------------------------------------------------------------------------------


_SCALE = ProblemScale()


def _tasks(scale: ExperimentScale) -> list[WorkItem]:
    sizes = _SCALE
    tasks = [WorkItem("gsm8k/teacher", partial(tune, variable=TEACHER, scale=sizes, seed=0), (), 300)]
    for seed in scale.seeds:
        start = f"gsm8k/start/seed-{seed}"
        tasks.append(WorkItem(start, partial(tune, variable=STUDENT, scale=sizes, seed=seed), (), 200))
        for arm in ARMS:
            work = partial(study, arm=arm, scale=sizes, seed=seed, start=start, teacher="gsm8k/teacher")
            tasks.append(WorkItem(_task(arm, seed), work, (start, "gsm8k/teacher"), 400))
    return tasks


def _task(arm: str, seed: int) -> str:
    return f"gsm8k/{arm.replace(' ', '-')}/seed-{seed}"


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    by_arm: dict[str, Sequence[Figures]] = {"the teacher": [results["gsm8k/teacher"]]}
    by_arm |= {arm: [results[_task(arm, seed)] for seed in scale.seeds] for arm in ("start", *ARMS)}
    columns = {"right": ("right, T=1", "%"), "greedy": ("right, greedy", "%"), "seconds": ("time", "s")}
    return [
        Row(name, [run[key] for run in figures], unit, lower_is_better=unit != "%", column=column)
        for name, figures in by_arm.items() for key, (column, unit) in columns.items() if key in figures[0]
    ]  # fmt: skip


def _judge(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[ClaimResult]:
    """The claims, with intervals over seeds and problems."""
    arms, claims = ("on-policy JSD", "supervised KD"), []
    ours, theirs = ([results[_task(arm, seed)] for seed in scale.seeds] for arm in arms)
    for measure_name in ("right", "greedy"):
        gain = compare_scores(
            *([run["scores"][measure_name] for run in runs] for runs in (ours, theirs)), largest=1.0, comparisons=2
        )
        values = [our[measure_name] - their[measure_name] for our, their in zip(ours, theirs, strict=True)]
        name = f"on-policy JSD over supervised KD: right, {'greedy' if measure_name == 'greedy' else 'T=1'}"
        claims.append(judge_difference(name, gain, scale=100.0, values=values, comparisons=2))
    return claims


GSM8K = Experiment("gsm8k", "Word problems, with pretrained models on a GPU", _tasks, _rows, why_skipped, _judge)
