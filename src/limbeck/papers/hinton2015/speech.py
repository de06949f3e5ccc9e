"""Distillation of an ensemble on spoken digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean

from safetensors.torch import load_file, save_file

from limbeck.methods import make
from limbeck.models import load, save
from limbeck.papers.experiment import Experiment, ExperimentScale, Figures, Row, TaskFolder
from limbeck.papers.hinton2015.acoustic import STUDENT_LR, TEMPERATURE, judge_model, network, soft, soft_targets, train
from limbeck.papers.hinton2015.spoken_digits import keep_frames, read_part
from limbeck.task_runner import Task
from limbeck.teachers import Ensemble

FRAMES = "speech/frames"
"""The task that saves the frames for all others."""
NET = "net"
"""The folder of a trained network in the folder of its task."""
_ANSWERS = "answers.safetensors"
_SECONDS_PER_EPOCH = 8.5
"""Seconds per epoch of all training clips at three speeds, on one thread of the reference machine."""
_PAPER_SHARE = 100 * (60.8 - 58.9) / (61.1 - 58.9)


def member(number: int, seed: int) -> str:
    """Make the task of a member of the ensemble. Member 0 of a seed is also the baseline of `regularizer`."""
    return f"speech/member-{number}/seed-{seed}"


def frames_task(scale: ExperimentScale) -> Task:
    """Compute log-Mel frames and labels of all clips."""
    return Task(FRAMES, partial(keep_frames, quick=scale.quick), seconds=scale.pick(4, 12))


def member_task(scale: ExperimentScale, number: int, seed: int) -> Task:
    """Train one network on labels."""
    own = 1000 * seed + number
    return _single(scale, member(number, seed), own, _epochs(scale, "member"), look_back=number == 0)


def learn(desk: TaskFolder, *, seed: int, epochs: int, look_back: bool) -> Figures:
    """Train one network on labels and save it; `look_back` also evaluates it on its training data."""
    part, net = read_part(desk.of(FRAMES), "train"), network(seed)
    train(desk, net, make("supervised"), part.windows, seed=seed, epochs=epochs)
    save(net, desk.folder / NET)
    return judge_model(net, desk.of(FRAMES), train=part.windows if look_back else None)


def gather(desk: TaskFolder, *, members: Sequence[str]) -> Figures:
    """Evaluate the arithmetic mean of the members at T = 1, and store its outputs for the training frames at T."""
    nets = [load(desk.of(task) / NET) for task in members]
    answers = soft_targets(Ensemble(*nets, temperature=TEMPERATURE), read_part(desk.of(FRAMES), "train").windows)
    save_file({"train": answers}, desk.folder / _ANSWERS)
    return judge_model(Ensemble(*nets), desk.of(FRAMES))


def distil(desk: TaskFolder, *, ensemble: str, seed: int, epochs: int) -> Figures:
    """Train one network on the stored outputs of the ensemble."""
    part, net = read_part(desk.of(FRAMES), "train"), network(seed, dropout=0.0)
    recipe = soft(load_file(desk.of(ensemble) / _ANSWERS)["train"])
    train(desk, net, recipe, part.windows, seed=seed, epochs=epochs, lr=STUDENT_LR)
    return judge_model(net, desk.of(FRAMES))


def _epochs(scale: ExperimentScale, kind: str) -> int:
    """More epochs were better on development data in all trials. The members use as many as the budget allows."""
    return {"member": scale.pick(2, 8), "student": scale.pick(4, 32)}[kind]


def _members(scale: ExperimentScale) -> int:
    return scale.pick(3, 10)


def _seconds(scale: ExperimentScale, epochs: int) -> float:
    return 3 + epochs * _SECONDS_PER_EPOCH * scale.pick(1, 3) / 3


def _single(scale: ExperimentScale, name: str, seed: int, epochs: int, *, look_back: bool = False) -> Task:
    work = partial(learn, seed=seed, epochs=epochs, look_back=look_back)
    return Task(name, work, (FRAMES,), _seconds(scale, epochs))


def _tasks(scale: ExperimentScale) -> list[Task]:
    tasks = [frames_task(scale)]
    for seed in scale.seeds:
        tasks += [member_task(scale, number, seed) for number in range(_members(scale))]
        members = tuple(member(number, seed) for number in range(_members(scale)))
        ensemble, student = f"speech/ensemble/seed-{seed}", _epochs(scale, "student")
        gathering = partial(gather, members=members)
        tasks.append(Task(ensemble, gathering, (FRAMES, *members), 3 + 2.0 * len(members) * scale.pick(1, 3)))
        own = 1000 * seed + 900
        distilling = partial(distil, ensemble=ensemble, seed=own, epochs=student)
        tasks.append(Task(f"speech/distilled/seed-{seed}", distilling, (FRAMES, ensemble), _seconds(scale, student)))
        tasks.append(_single(scale, f"speech/as-long/seed-{seed}", own, student))
    return tasks


_ACCURACY, _CLIPS = "test_frame_accuracy", "test_clip_error"


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    count = _members(scale)
    kinds = {
        kind: [results[f"speech/{kind}/seed-{s}"] for s in scale.seeds] for kind in ("ensemble", "distilled", "as-long")
    }
    single = [_mean_of([results[member(number, seed)] for number in range(count)]) for seed in scale.seeds]
    rows = []
    for name, figures, paper in (
        ("baseline", single, "58.9 %"),
        (f"{count}x ensemble", kinds["ensemble"], "61.1 %"),
        ("distilled single model", kinds["distilled"], "60.8 %"),
        ("  as long on labels alone", kinds["as-long"], ""),
    ):
        note = f"mean of the {count} members; " if figures is single else ""
        note += f"paper, on its data: {paper}" if paper else "the student's budget without its teacher"
        accuracy = [run[_ACCURACY] for run in figures]
        rows.append(Row(f"{name}, frame accuracy", accuracy, "%", lower_is_better=False, note=note))
        rows.append(Row(f"{name}, clip error", [run[_CLIPS] for run in figures], "%"))
    return [*rows, _share(single, kinds["ensemble"], kinds["distilled"])]


def _mean_of(members: Sequence[Figures]) -> Figures:
    return {key: fmean(member[key] for member in members) for key in (_ACCURACY, _CLIPS)}


def _share(single: Sequence[Figures], ensemble: Sequence[Figures], student: Sequence[Figures]) -> Row:
    """Divide each seed's gain by the mean gain of the ensembles, so that the mean is the ratio of means."""
    gain = fmean(run[_ACCURACY] for run in ensemble) - fmean(run[_ACCURACY] for run in single)
    own = [run[_ACCURACY] - base[_ACCURACY] for run, base in zip(student, single, strict=True)]
    shares = [100 * value / gain for value in own] if gain > 0 else [0.0] * len(own)
    return Row(
        "share of the ensemble's gain in frame accuracy that one model keeps", shares, "%", _PAPER_SHARE,
        lower_is_better=False, aim=80,
        note="ratio of means over seeds; the paper says over 80 %, its rounded accuracies give 86 %",
    )  # fmt: skip


SPEECH = Experiment("speech", "Does one model keep what ten know together?", _tasks, _rows)
