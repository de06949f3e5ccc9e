"""Real text: captions of Multi30k, continued from their first words by small decoders that are trained here."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.data import Rollouts, ShuffledLoader, TokenDataset, train_byte_level_tokenizer
from limbeck.data.builtin_datasets import data_folders
from limbeck.engine import Run, distill
from limbeck.errors import DataError
from limbeck.functional import cross_entropy, jensen_shannon, kl_divergence, reverse_kl
from limbeck.generation import GenerationConfig, generate
from limbeck.losses import Loss
from limbeck.metrics.statistics import compare_scores
from limbeck.models import seeded
from limbeck.optional_imports import install_command, is_installed
from limbeck.papers.claim import ClaimResult, judge_difference
from limbeck.papers.experiment import Experiment, ExperimentScale, Figures, Row, TaskFolder, load_weights, save_weights
from limbeck.papers.gkd.maze import Decoder
from limbeck.papers.gkd.students import DEVELOPMENT, LOG_EVERY, count_steps
from limbeck.random_seeds import counter_order
from limbeck.recipe import Optimizer, Stage
from limbeck.task_runner import WorkItem

_FILE = "multi30k_en_de"
_WORDS = 3
"""The words of a prompt."""
_BATCH = 64
_LONGEST = 40
ARMS = ("labels", "supervised KD", "supervised KD, equal seconds", "on-policy JSD")
_SEARCHED = {"labels": "labels", "supervised KD": ARMS[2], ARMS[2]: ARMS[2], "on-policy JSD": "on-policy JSD"}
"""Arm -> the arm whose learning rate it takes."""
_SEED = DEVELOPMENT[0]


@dataclass(frozen=True)
class CaptionScale:
    """The sizes.

    Attributes:
        vocabulary: Tokens of the tokenizer.
        teacher: Steps, layers and width of the teacher, which learns from all captions.
        start: Steps of cross-entropy that the students of a seed share.
        steps: Steps of an arm after that.
        captions: The number of captions of the students.
        test: The number of test captions.
        rates: Learning rates among which training captions that a student does not see choose.
    """

    vocabulary: int = 1000
    teacher: tuple[int, int, int] = (1200, 3, 128)
    start: int = 200
    steps: int = 200
    captions: int = 1000
    test: int = 500
    rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3)


class Captions(NamedTuple):
    """Captions with their tokenizer: a prompt of three words, and the rest.

    Attributes:
        train: The training captions.
        test: The test captions.
        tokenizer: A byte-level tokenizer of the training captions.
    """

    train: list[dict[str, str]]
    test: list[dict[str, str]]
    tokenizer: Any


def _find(part: str) -> Any:
    for folder in data_folders(None):
        if (file := folder / _FILE / f"{part}.jsonl.gz").is_file():
            return file
    return None


def why_skipped(scale: ExperimentScale) -> str:
    """The reason why the captions are left out; empty if they are not."""
    if scale.quick:
        return "Real text is part of --scale full."
    if not is_installed("transformers") or not is_installed("tokenizers"):
        return f"The tokenizer needs transformers and tokenizers; type: {install_command('hf')}"
    missing = [part for part in ("train", "val") if _find(part) is None]
    if missing:
        return f"Put {_FILE}/{missing[0]}.jsonl.gz into {data_folders(None)[0]}, or set LIMBECK_DATA to its folder."
    return ""


@cache
def load_captions(scale: CaptionScale) -> Captions:
    """Load the English captions of Multi30k, and train a tokenizer on them.

    Raises:
        DataError: If a file is missing.
    """
    train, test = (_read(part) for part in ("train", "val"))
    tokenizer = train_byte_level_tokenizer(
        (row["prompt"] + row["completion"] for row in train), vocabulary=scale.vocabulary, max_length=_LONGEST * 2
    )
    return Captions(train, test[: scale.test], tokenizer)


def _read(part: str) -> list[dict[str, str]]:
    file = _find(part)
    if file is None:
        raise DataError(f"{_FILE}/{part}.jsonl.gz is not in {', '.join(map(str, data_folders(None)))}.")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        captions = [json.loads(line)["en"].split() for line in lines]
    return [
        {"prompt": " ".join(words[:_WORDS]), "completion": " " + " ".join(words[_WORDS:])}
        for words in captions if len(words) > _WORDS
    ]  # fmt: skip


def _dataset(rows: Sequence[Mapping[str, str]], tokenizer: Any) -> TokenDataset:
    return TokenDataset(rows, tokenizer=tokenizer, max_length=2 * _LONGEST, too_long="drop")


def _decoder(scale: CaptionScale, seed: int, layers: int = 2, width: int = 32) -> Decoder:
    with seeded(seed):
        return Decoder(scale.vocabulary, width=width, layers=layers, heads=width // 16, positions=2 * _LONGEST)


def _distill(models: Any, stage: Stage, data: TokenDataset, *, seed: int, rate: float = 2e-3, **options: Any) -> Run:
    loader = ShuffledLoader(data, batch_size=_BATCH, seed=seed, drop_last=True)
    optimizer = Optimizer("adamw", lr=rate, warmup=20, options={"weight_decay": 0.01, "betas": (0.9, 0.98)})
    return distill(
        models, stage, loader, optimizer=optimizer, seed=seed, accelerator="cpu", log_every=LOG_EVERY, **options
    )


def _student_data(scale: CaptionScale, seed: int) -> TokenDataset:
    captions = load_captions(scale)
    return _dataset(_order(scale, seed)[: scale.captions], captions.tokenizer)


def _order(scale: CaptionScale, seed: int) -> list[dict[str, str]]:
    """All training captions in the order of a seed; its student learns from the first ones."""
    train = load_captions(scale).train
    return [train[i] for i in counter_order(len(train), seed=seed, epoch=0, stream="captions").tolist()]


def _judged_data(scale: CaptionScale, seed: int) -> TokenDataset:
    """The test captions, or for the seed of development training captions that its student does not see."""
    captions = load_captions(scale)
    rows = captions.test if seed != _SEED else _order(scale, seed)[scale.captions :][: scale.test]
    return _dataset(rows, captions.tokenizer)


# --- tasks ----------------------------------------------------------------------------------------------------------


def teach(folder: TaskFolder, *, scale: CaptionScale) -> Figures:
    """Train the teacher by cross-entropy on all captions."""
    captions = load_captions(scale)
    teacher = _decoder(scale, 0, *scale.teacher[1:])
    stage = Stage(Loss(cross_entropy), steps=scale.teacher[0])
    data = _dataset(captions.train, captions.tokenizer)
    _distill(teacher, stage, data, seed=0, out=folder.folder / "run", resume=True).finish()
    save_weights(teacher, folder)
    return measure(teacher, teacher, scale, seed=0)


def begin(folder: TaskFolder, *, scale: CaptionScale, seed: int) -> Figures:
    """Train the start that all arms of a seed share."""
    student = _decoder(scale, seed + 1)
    _distill(student, Stage(Loss(cross_entropy), steps=scale.start), _student_data(scale, seed), seed=seed).finish()
    save_weights(student, folder)
    return measure(student, _open_teacher(folder, scale), scale, seed=seed)


def count_seconds(folder: TaskFolder, *, scale: CaptionScale, start: str) -> Figures:
    """Count the steps of supervised KD that take as many seconds as all steps of on-policy JSD."""
    arms = {"on-policy": "on-policy JSD", "forward": "supervised KD"}
    runs = {name: _make_run(arm, folder, scale, _SEED, start, scale.steps)[1] for name, arm in arms.items()}
    return count_steps(runs, scale.steps)


def study(
    folder: TaskFolder, *, arm: str, scale: CaptionScale, seed: int, start: str, rate: float | None = None
) -> Figures:
    """Train one student, and measure it; by default with the learning rate that was chosen for it."""
    if rate is None:
        rate = float(folder.figures_of(_SETTINGS)[_SEARCHED[arm]])
    steps = folder.figures_of(_COUNTED)["steps"]["forward"] if arm.endswith("seconds") else scale.steps
    models, run = _make_run(arm, folder, scale, seed, start, steps, rate)
    began = time.process_time()
    run.finish()
    spent = time.process_time() - began
    figures = measure(models["student"], models["teacher"], scale, seed=seed)
    return {**figures, "steps": steps, "seconds": spent, "rate": rate}


def choose_rates(folder: TaskFolder, *, trials: Mapping[str, Mapping[str, str]]) -> Figures:
    """Choose for each arm the learning rate with the lowest KL divergence on the development student's own text.

    Args:
        folder: The folder of the task.
        trials: Arm -> rate -> the task in which it was tried.
    """
    chosen: dict[str, Any] = {}
    for arm, tasks in trials.items():
        nats = {rate: float(folder.figures_of(task)["own"]) for rate, task in tasks.items()}
        chosen[arm] = float(min(nats, key=lambda rate: nats[rate]))
        chosen[f"{arm}: nats"] = nats
    return chosen


def _open_teacher(folder: TaskFolder, scale: CaptionScale) -> nn.Module:
    return load_weights(_decoder(scale, 0, *scale.teacher[1:]), folder, _TEACHER)


def _make_run(
    arm: str, folder: TaskFolder, scale: CaptionScale, seed: int, start: str, steps: int, rate: float = 2e-3
) -> tuple[dict[str, nn.Module], Run]:
    """The models of an arm, and its training."""
    models = {"student": load_weights(_decoder(scale, 0), folder, start), "teacher": _open_teacher(folder, scale)}
    if arm == "labels":
        stage = Stage(Loss(cross_entropy), steps=steps)
        return models, _distill({"student": models["student"]}, stage, _student_data(scale, seed), seed=seed, rate=rate)
    objective = Loss(jensen_shannon) if arm == "on-policy JSD" else Loss(kl_divergence)
    rollouts = Rollouts(generation=_sampling(scale)) if arm == "on-policy JSD" else None
    stage = Stage(objective, teacher="teacher", steps=steps, loader=rollouts)
    return models, _distill(models, stage, _student_data(scale, seed), seed=seed, rate=rate)


def _sampling(scale: CaptionScale, temperature: float = 1.0) -> GenerationConfig:
    end = load_captions(scale).tokenizer.eos_token_id
    return GenerationConfig(max_new_tokens=_LONGEST, eos_token_id=end, temperature=temperature)


# --- measures -------------------------------------------------------------------------------------------------------


def measure(student: nn.Module, teacher: nn.Module, scale: CaptionScale, *, seed: int) -> Figures:
    """Measure a student on the beginnings of test captions; for the seed of development, on others.

    Returns:
        ``own``: KL(student || teacher) in nats a token, on the student's own text at temperature 1; ``given``:
        KL(teacher || student) on the captions; ``entropy`` of the student on its own text; ``perplexity`` of the
        captions; ``finished``: the percentage of its texts that end within 40 tokens; ``scores``: ``own`` by text.
    """
    test = _judged_data(scale, seed)
    prompts, answers = _split(test)
    ids = torch.arange(len(prompts))
    written = generate(student, prompts, _sampling(scale), ids=ids, seed=seed)
    q, p, where, _ = _log_probabilities(student, teacher, prompts, list(written.texts))
    kl = reverse_kl(q, p) * where
    by_text = kl.sum(1) / where.sum(1)
    entropy = -((q.exp() * q).sum(-1) * where).sum() / where.sum()
    q, p, where, labels = _log_probabilities(student, teacher, prompts, answers)
    given = (kl_divergence(q, p) * where).sum() / where.sum()
    surprise = -(q.gather(-1, labels[..., None])[..., 0] * where).sum() / where.sum()
    return {
        "own": float(by_text.mean()), "given": float(given), "entropy": float(entropy),
        "perplexity": float(surprise.exp()), "finished": 100 * float(written.finished.double().mean()),
        "scores": by_text.tolist(),
    }  # fmt: skip


def _split(data: TokenDataset) -> tuple[list[Tensor], list[Tensor]]:
    """The prompts and the answers of all texts."""
    prompts, answers = [], []
    for begin, end in zip(data.texts.starts[:-1].tolist(), data.texts.starts[1:].tolist(), strict=True):
        ids, is_target = data.texts.ids[begin:end].long(), data.texts.is_target[begin:end]
        first = int(is_target.long().argmax())
        prompts.append(ids[:first])
        answers.append(ids[first:])
    return prompts, answers


@torch.no_grad()
def _log_probabilities(
    student: nn.Module, teacher: nn.Module, prompts: Sequence[Tensor], answers: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of student and teacher at the tokens of the answers; where these are; and the tokens."""
    texts = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
    ids = nn.utils.rnn.pad_sequence(texts, batch_first=True)
    first = torch.tensor([len(prompt) for prompt in prompts])[:, None]
    last = torch.tensor([len(text) for text in texts])[:, None]
    place = torch.arange(1, ids.shape[1])
    q, p = (model.eval()(ids[:, :-1]).logits.log_softmax(-1) for model in (student, teacher))
    return q, p, ((place >= first) & (place < last)).float(), ids[:, 1:]


# --- tasks and rows of the table ------------------------------------------------------------------------------------

_SCALE = CaptionScale()
_SETTINGS, _COUNTED, _TEACHER = "captions/settings", "captions/seconds", "captions/teacher"


def _task(arm: str, seed: int) -> str:
    return f"captions/{arm.replace(' ', '-').replace(',', '')}/seed-{seed}"


def _tasks(scale: ExperimentScale) -> list[WorkItem]:
    first = _task("start", _SEED)
    tasks = [
        WorkItem(_TEACHER, partial(teach, scale=_SCALE), (), 150),
        WorkItem(_COUNTED, partial(count_seconds, scale=_SCALE, start=first), (_TEACHER, first), 20),
    ]
    for seed in (_SEED, *scale.seeds):
        tasks.append(WorkItem(_task("start", seed), partial(begin, scale=_SCALE, seed=seed), (_TEACHER,), 4))
    trials: dict[str, dict[str, str]] = {}
    for arm in dict.fromkeys(_SEARCHED.values()):
        for rate in _SCALE.rates:
            work = partial(study, arm=arm, scale=_SCALE, seed=_SEED, start=first, rate=rate)
            name = f"{_task(arm, _SEED)}/rate-{rate:g}"
            trials.setdefault(arm, {})[f"{rate:g}"] = name
            tasks.append(WorkItem(name, work, (first, _TEACHER, _COUNTED), 15))
    tried = tuple(name for names in trials.values() for name in names.values())
    tasks.append(WorkItem(_SETTINGS, partial(choose_rates, trials=trials), tried, 0.1))
    return tasks + [_study(arm, seed) for seed in scale.seeds for arm in ARMS]


def _study(arm: str, seed: int) -> WorkItem:
    start = _task("start", seed)
    work = partial(study, arm=arm, scale=_SCALE, seed=seed, start=start)
    return WorkItem(_task(arm, seed), work, (start, _TEACHER, _COUNTED, _SETTINGS), 15)


_COLUMNS = {
    "own": ("KL, own text", "nats"), "given": ("KL, captions", "nats"), "entropy": ("entropy", "nats"),
    "perplexity": ("perplexity", ""), "finished": ("finished", "%"), "steps": ("steps", "steps"),
    "seconds": ("time", "s"), "rate": ("learning rate", ""),
}  # fmt: skip


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    by_arm = {arm: [results[_task(arm, seed)] for seed in scale.seeds] for arm in ("start", *ARMS)}
    return [
        Row(name, [run[key] for run in figures], unit, column=column)
        for name, figures in {"the teacher": [results[_TEACHER]], **by_arm}.items()
        for key, (column, unit) in _COLUMNS.items() if key in figures[0]
    ]  # fmt: skip


def _judge(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[ClaimResult]:
    """The claim, with an interval over seeds and captions."""
    arms = ("supervised KD, equal seconds", "on-policy JSD")
    theirs, ours = ([results[_task(arm, seed)] for seed in scale.seeds] for arm in arms)
    gain = compare_scores(*([run["scores"] for run in runs] for runs in (theirs, ours)))
    values = [their["own"] - our["own"] for our, their in zip(ours, theirs, strict=True)]
    name = "on-policy JSD over supervised KD, equal seconds: fewer nats on own text"
    return [judge_difference(name, gain, unit="nats", values=values)]


CAPTIONS = Experiment(
    "captions", "Real text: captions of Multi30k, continued from three words", _tasks, _rows, why_skipped, _judge
)
