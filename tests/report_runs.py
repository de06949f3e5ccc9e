"""Helpers: run folders for the tests of the report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
import yaml
from scipy.stats import t as student_t

from limbeck.metrics import CORRUPTIONS, Predictions, evaluate, save_tensors

ARMS = {"student alone": 1.0, "label smoothing": 1.05, "shuffled teacher": 0.8, "hinton": 1.5, "fitnets": 1.25}
"""Arm -> how well it tells the classes apart."""
TEACHER = 2.1
CONTROLS = ("student alone", "label smoothing", "shuffled teacher")


def planted_run(
    folder: Path, *, classes: int = 10, test: int = 600, seeds: int = 3, arms=ARMS, names=None,
    judged: str = "hinton", predictions: bool = True, development: bool = True, pictures: bool = True,
    milliseconds: float = 0.02, seed: int = 0,
) -> Path:  # fmt: skip
    """A folder as a comparison leaves it, with logits whose accuracies follow from what each arm can tell apart."""
    draw = np.random.default_rng(seed)
    truth = np.random.default_rng(12345)
    labels = torch.from_numpy(truth.integers(0, classes, test))
    hard = torch.from_numpy(truth.normal(0, 1.0, (test, classes)))  # what makes an example hard is common to all
    names = [f"class {i}" for i in range(classes)] if names is None else list(names)
    folder.mkdir(parents=True)

    def logits(skill: float) -> torch.Tensor:
        own = torch.from_numpy(draw.normal(0, 0.55, (test, classes)))
        return ((skill * 2.2 * torch.eye(classes)[labels] + hard + own) * (0.6 + skill / 2)).float()

    teacher = logits(TEACHER)
    rows = {"teacher": row("teacher", [measures(teacher, teacher, labels)], None, parameters=1_863_690)}
    rows["teacher"]["milliseconds"], rows["teacher"]["seconds"] = 9 * milliseconds, 61.0
    for arm, skill in arms.items():
        shown = [logits(skill + 0.02 * draw.normal()) for _ in range(seeds)]
        rows[arm] = row(arm, [measures(one, teacher, labels) for one in shown],
                        {"mean": 0.9, "std": 0.0, "values": [0.9] * seeds} if development else None)  # fmt: skip
        rows[arm]["milliseconds"] = milliseconds
        rows[arm]["seconds"] = 12.5 * (1.4 if arm not in CONTROLS else 1.0)
        if not development:
            del rows[arm]["development"]
        for number, one in enumerate(shown):
            run = folder / "arms" / arm.replace(" ", "-") / f"seed-{number}"
            run.mkdir(parents=True)
            (run / "metrics.jsonl").write_text("".join(training(arm, skill, draw)))
            if predictions:
                save_tensors({"test": one}, run / "predictions.safetensors")
    if predictions:
        save_tensors({"test": teacher, "test_labels": labels}, folder / "teacher" / "answers.safetensors")
    data = pictured(folder / "pictures.npz", labels, names) if pictures else "nowhere.npz"
    job = {"data": str(data), "teacher": {"model": "cnn"}, "student": {"model": "mlp", "hidden": [16]}, "seeds": seeds,
           "method": {"name": "hinton", "temperature": 4.0, "weight": 0.9}, "budget": {"epochs": 20, "batch_size": 64,
           "optimizer": "adamw", "lr": 0.001}, "development": 0.1}  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    result = {
        "arms": rows, "verdict": verdict(rows, judged), "seconds": 412.5, "run": str(folder), "seeds": seeds,
        "method": {"name": "hinton", "temperature": 4.0, "weight": 0.9},
        "data": {"name": "pictures.npz", "train": 5000, "development": 500, "test": test, "classes": classes,
                 "class_names": names},
        "teacher_development_accuracy": 0.95,
        "environment": {"python": "3.11.7", "platform": "Linux x86_64", "cores": 2, "threads": 1, "cuda": None,
                        "packages": {"limbeck": "0.1.0", "torch": "2.13.0"}},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def planted_task(
    folder: Path, task, targets: torch.Tensor, outputs: dict[str, torch.Tensor], *, seeds: int = 2
) -> Path:
    """A run of another task: arm -> stored outputs, among them ``teacher``; every seed has the same outputs."""
    arms = {name: 1.0 for name in outputs if name != "teacher"}
    run = planted_run(folder, test=20, seeds=seeds, arms=arms, predictions=False, pictures=False)
    teacher = folder / "teacher" / "answers.safetensors"
    save_tensors({"test": outputs["teacher"], "test_labels": targets}, teacher)

    def change(result):
        result["task"] = task.to_dict()
        for name, one in outputs.items():
            found = task.measure(one, targets, outputs["teacher"])
            count = 1 if name == "teacher" else seeds
            values = {key: spread([value] * count) for key, value in found.items()}
            row = {
                key: value for key, value in result["arms"][name].items() if key not in ("accuracy", "nll", "agreement")
            }
            result["arms"][name] = {**row, "measures": values, "development": spread([0.5] * count)}
            for seed in range(count if name != "teacher" else 0):
                path = folder / "arms" / name.replace(" ", "-") / f"seed-{seed}" / "predictions.safetensors"
                save_tensors({"test": one}, path)

    return with_result(run, change)


def with_result(run: Path, change) -> Path:
    """Change something in the result of a run."""
    result = json.loads((run / "result.json").read_text())
    change(result)
    (run / "result.json").write_text(json.dumps(result))
    return run


def measures(shown, teacher, labels):
    found = evaluate(Predictions(shown, teacher, labels), ("accuracy", "nll", "agreement", "kl_to_teacher", "ece"))
    return {name: measure.value for name, measure in found.items()}


def spread(values):
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            "values": list(values)}  # fmt: skip


def row(arm, found, development, parameters=50_890):
    role = "teacher" if arm == "teacher" else "control" if arm in CONTROLS else "method"
    by_name = {name: spread([one[name] for one in found]) for name in found[0]}
    return {
        "role": role, "method": {"name": arm} if role == "method" else None, "accuracy": by_name["accuracy"],
        "nll": by_name["nll"]["mean"], "agreement": by_name["agreement"]["mean"], "measures": by_name,
        "development": development, "parameters": parameters, "megabytes": parameters * 4e-6, "milliseconds": 0.02,
        "seconds": None, "cost": {"macs": 3 * parameters},
    }  # fmt: skip


def verdict(rows, judged):
    alone = "student alone"

    def beside(other):
        ours, theirs = rows[judged]["accuracy"]["values"], rows[other]["accuracy"]["values"]
        apart = [a - b for a, b in zip(ours, theirs, strict=True)]
        mean, n = float(np.mean(apart)), len(apart)
        if n < 2:
            return {"difference": mean, "interval": None, "helps": None, "sentence": f"One seed says {mean:+.3f}."}
        half = float(student_t.ppf(0.975, n - 1)) * float(np.std(apart, ddof=1)) / math.sqrt(n)
        low, high = mean - half, mean + half
        said = f"{100 * mean:+.2f} points (95 % interval {100 * low:+.2f} to {100 * high:+.2f}, {n} paired seeds)."
        return {"difference": mean, "interval": [low, high], "helps": low > 0, "sentence": said}

    if alone not in rows or judged not in rows:
        said = "No verdict: without the arm 'student alone' there is nothing to compare with."
        return {"arm": judged, "difference": None, "interval": None, "helps": None, "sentence": said, "against": {}}
    others = {name: beside(name) for name in rows if name in CONTROLS and name != alone}
    return {"arm": judged, **beside(alone), "against": others}


def training(arm, skill, draw):
    terms = {"cross_entropy": 1.0} if arm in CONTROLS else {"cross_entropy": 1.0, "kl_divergence": 2.5}
    for step in range(10, 1010, 10):
        shown = {name: scale * (0.2 / skill + 1.8 * math.exp(-step / 180)) * (1 + 0.06 * draw.normal())
                 for name, scale in terms.items()}  # fmt: skip
        yield (
            json.dumps({"stage": "0", "step": step, "steps": 1000, "loss": sum(shown.values()), "terms": shown}) + "\n"
        )


def pictured(path, labels, names):
    """Gray pictures, one bright bar for each class, in the order of the labels."""
    n = len(labels)
    pictures = np.random.default_rng(1).integers(0, 60, (n, 12, 12)).astype(np.uint8)
    for i, label in enumerate(labels.tolist()):
        pictures[i, label % 12, :] = 230
        pictures[i, :, (label * 5) % 12] += 90
    labels = labels.numpy()
    np.savez(path, x_train=pictures[: len(names)], y_train=np.arange(len(names)) % len(names), x_test=pictures,
             y_test=labels, class_names=np.array(names))  # fmt: skip
    return path


def besides(*, classes: int = 10, seeds: int = 3, student: int = 3, teacher: int = 4, judged: str = "hinton"):
    """What a job has measured besides, as a result holds it."""
    draw = np.random.default_rng(5)
    names = {"student": [f"layer{i}.0" for i in range(student)], "teacher": [f"layer{i}.0" for i in range(teacher)]}

    def likeness(arm):
        values = [[math.exp(-abs(i / student - j / teacher)) for j in range(teacher)] for i in range(student)]
        return {"student_layers": names["student"], "values": values, "closest": spread([0.8 + 0.01 * i for i in
                range(seeds)])}  # fmt: skip

    def decline(arm):
        many = 1 if arm == "teacher" else seeds
        levels = {
            name: [spread(list(0.9 - 0.05 * level - 0.02 * draw.uniform(size=many))) for level in range(1, 6)]
            for name in CORRUPTIONS
        }
        return {"clean": spread([0.9] * many), "mean": spread([0.75 + 0.01 * i for i in range(many)]), "by": levels}

    def grouped(arm):
        accuracy = {f"class {i}": spread([0.5 + 0.04 * i] * (1 if arm == "teacher" else seeds)) for i in range(classes)}
        return {"worst": {"name": "class 0", "examples": 60, **accuracy["class 0"]}, "accuracy": accuracy}

    two = ("student alone", judged)
    return {
        "cka": {"examples": 600, "teacher": None, "teacher_layers": names["teacher"], "sentence": "Layers: as planted.",
                "arms": {arm: likeness(arm) for arm in two}},
        "corruptions": {"examples": 500, "severities": [1, 2, 3, 4, 5], "sentence": "Bad images: as planted.",
                        "arms": {arm: decline(arm) for arm in ("teacher", *two)}},
        "groups": {"by": "region", "examples": {f"class {i}": 60 for i in range(classes)},
                   "sentence": "Groups: as planted.", "arms": {arm: grouped(arm) for arm in ("teacher", *two)}},
        "attacks": {"examples": 200, "epsilons": ["2/255", "8/255"], "sentence": "Attacks: as planted.",
                    "arms": {arm: {"clean": spread([0.9] * seeds), "robust": [spread([0.5] * seeds)] * 2}
                             for arm in two}},
        "faithfulness": {"examples": 200, "epsilons": ["1/255", "4/255"], "tolerance": 0.1,
                         "sentence": "Faithfulness: as planted.",
                         "arms": {arm: {"disagreement": spread([0.2] * seeds), "attack": [spread([0.1] * seeds)] * 2,
                                        "bound": [spread([0.6] * seeds)] * 2, "faithful": [spread([0.3] * seeds)] * 2}
                                  for arm in two}},
        "sharpness": {"examples": 500, "sentence": "Sharpness: as planted.",
                      "arms": {arm: {"top_eigenvalue": spread([3.0] * seeds), "trace": spread([40.0] * seeds)}
                               for arm in two}},
    }  # fmt: skip
