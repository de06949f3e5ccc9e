"""Write the lists of methods in the job files of examples/tables: every published method that applies.

`make docs` writes them, so that a new method is part of the next table. `python tools/table_jobs.py` prints the
predicted GPU hours of the table at paper scale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from limbeck.job import make_job, read_job
from limbeck.methods import method, names
from limbeck.metrics import macs
from limbeck.models import build

TABLES = Path(__file__).resolve().parents[1] / "examples" / "tables"
FIRST, LAST = "# from the cards: `make docs` writes what follows", "# end of the cards"
EXCLUDED = {
    "supervised": "it is the arm `student alone`",
    "label_smoothing": "it is an arm of its own",
    "function_matching": "it has no labels, and needs views and far more epochs than the budget of the others",
    "privileged": "the data have no inputs that only a teacher may read",
    "kiddin": "the data have no descriptions",
    "llkd": "it selects among unlabeled examples, and all examples have labels here",
    "hanjabridge": "it keeps a model's embeddings during further training; a new student has nothing to keep",
    "specialists": "its groups of classes are settings of a data set, and its teachers cost more than all other arms",
    **dict.fromkeys(
        ("multi_teacher", "rl_kd", "agre_kd", "mtard", "representation_consolidation"), "its teachers are several"
    ),
    **dict.fromkeys(
        ("arow", "srst_awr"), "it trains against attacks, which cost several times the budget of the others"
    ),
    "knowledge_selection": "each episode of its practice is a whole training, so its budget is not that of the others",
    "faithful_distillation": "its bounds do not go through transformers, and need inputs within 0 and 1",
    "ai_kd": "its teacher is a network of the student's own architecture",
}
"""Methods that are in no table, with the reason."""
NETWORKS = {
    "fashion_mnist": ("mlp", "cnn"),
    "cifar100_subset": ("mlp", "resnet"),
    "cifar100_paper_scale": ("mlp", "resnet"),
    "sst2": ("transformer",),
}
"""The trials of a card that stand for the networks of a table."""
LABELS = {"cospress": {"label_weight": 1.0}}
"""What a method that learns no classifier by itself needs in a table of classifiers."""
TRANSFORMERS = {"student_layers": 2, "teacher_layers": 6, "heads": 4}
"""The models of the table on SST-2."""


def applies(name: str, table: str) -> bool:
    """Whether a method is in a table: it learns classes, on networks of this kind, and is not excluded."""
    card = method(name).card
    kinds = {trial for trial in card.trials if isinstance(trial, str)}
    if name in EXCLUDED or "classification" not in card.tasks:
        return False
    if table == "sst2":  # methods of outputs read no layers by name
        return "transformer" in kinds or (not card.example and card.labels != "few" and method(name).has_teacher)
    return bool(kinds.intersection(NETWORKS[table]))


def settings_of(name: str, table: str) -> dict[str, Any]:
    """The settings of a method in a table: those of its card's example, which name layers, and else its defaults."""
    call = method(name)
    settings = {**call.card.example, **LABELS.get(name, {})}
    if table == "sst2":
        settings |= {key: value for key, value in TRANSFORMERS.items() if key in settings}
    return settings


def render_methods(table: str) -> str:
    """The methods of a table as YAML."""
    lines = ["methods:"]
    for name in names("classification"):
        if applies(name, table):
            settings = "".join(f", {key}: {json.dumps(value)}" for key, value in settings_of(name, table).items())
            lines.append(f"  - {{name: {name}{settings}}}")
    return "\n".join(lines) + "\n"


def updated_jobs() -> dict[Path, str]:
    """The current text of every job file."""
    pages = {}
    for table in NETWORKS:
        path = TABLES / f"{table}.yaml"
        text = path.read_text(encoding="utf-8")
        before, found, rest = text.partition(f"{FIRST}\n")
        if not found or LAST not in rest:
            raise ValueError(f"{path} needs a part between {FIRST!r} and {LAST!r}")
        pages[path] = f"{before}{FIRST}\n{render_methods(table)}{LAST}{rest.partition(LAST)[2]}"
    return pages


@cache
def count_multiplications() -> dict[str, int]:
    """The multiplications of one forward pass of the teacher and the student at paper scale, for one image."""
    networks = {"teacher": "resnet32", "student": "resnet8"}
    image = torch.zeros(1, 3, 32, 32)
    return {size: macs(build(name, channels=3, classes=100, width=64), image) for size, name in networks.items()}


def predict_gpu_hours(*, teraflops: float = 20.0, images: int = 50_000) -> Mapping[str, float]:
    """Predict the hours of `cifar100_paper_scale.yaml` on one GPU, from multiplications and a rate.

    A step of a student costs three forward passes of it and one of the teacher. The rate is an assumption: small
    networks on images of 32 x 32 reach a small part of a GPU's peak. The first epochs of a run show the real one.
    """
    job = make_job(read_job(str(TABLES / "cifar100_paper_scale.yaml")))
    epochs, seeds, arms = job.budget.epochs, job.seeds, len(job.methods)
    count = count_multiplications()
    run = images * epochs * 2 / (teraflops * 1e12) / 3600
    alone, distilled = 3 * count["student"] * run, (3 * count["student"] + count["teacher"]) * run
    teacher = 3 * count["teacher"] * run
    return {
        "teacher": teacher,
        "one run alone": alone,
        "one distilled run": distilled,
        "all": teacher + seeds * (2 * alone + (arms + 1) * distilled),
    }


if __name__ == "__main__":
    for what, hours in predict_gpu_hours().items():
        print(f"{what}: {hours:.2f} GPU hours")
