"""The same training steps on one process or two, as a script that writes the results as JSON.

Typed ``ranks_story.py trainer|lightning FOLDER PROCESSES``. For the Trainer, test_ranks starts each process; Lightning
starts the second itself.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from torch.utils.data import DataLoader, Sampler

import limbeck as lb
from integrations.tiny import bert, texts
from limbeck.functional import cross_entropy, kernel, kl_divergence, squared_error, state_squared_error
from limbeck.integrations import DistillModule, DistillTrainer, IdDataset, collate
from limbeck.losses import Loss
from limbeck.models import seeded

MIXED, COMPARED = "mixed", "compared"


@kernel(per="batch")
def spread(student, teacher):
    return (student.mean(0) - teacher.mean(0)).square().sum()


@kernel(per="pair")
def gram(student, teacher):
    return (student @ student.T - teacher @ teacher.T).square()


def losses(kind: str, hidden: lb.Objective) -> lb.Objective:
    """Terms with counts of their own: labeled examples, examples, positions; or pairs of the whole batch."""
    soft = 0.3 * Loss(cross_entropy) + 0.7 * Loss(kl_divergence, temperature=2.0)
    return soft + hidden if kind == MIXED else soft + 0.1 * Loss(gram) + 0.5 * Loss(spread)


def held(*modules: torch.nn.Module) -> list[float]:
    state = [tensor.double().flatten() for module in modules for tensor in module.state_dict().values()]
    return torch.cat(state).tolist()


# --- the Trainer: batches of 4 a process, dealt out in turn; the last has 2 rows, and every third label is missing ----


def trained(folder: Path, processes: int, kind: str, accumulate: int) -> dict[str, Any]:
    import transformers

    examples = texts()
    examples.labels[::3] = -100
    student, teacher = bert(seed=0).double(), bert(seed=1).double()
    hidden = 0.1 * Loss(
        state_squared_error, student="bert.encoder.layer.0", teacher="bert.encoder.layer.1", head=lb.Projector()
    )
    chosen = losses(kind, hidden)
    arguments = transformers.TrainingArguments(
        str(folder), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=1,
        per_device_train_batch_size=8 // processes, gradient_accumulation_steps=accumulate, num_train_epochs=2,
        seed=3, data_seed=3, learning_rate=0.05, optim="sgd", max_grad_norm=0.5, logging_nan_inf_filter=False,
        accelerator_config={"even_batches": False},
    )  # fmt: skip
    bridge = DistillTrainer(
        student, arguments, objective=chosen, teacher=teacher, train_dataset=IdDataset(examples),
        data_collator=transformers.DataCollatorWithPadding(examples.tokenizer),
    )  # fmt: skip
    with torch.no_grad():
        for tensor in chosen.state_dict().values():
            tensor += int(os.environ.get("RANK", "0"))  # processes that drew other heads take those of the first
    bridge.train()
    said = [entry["loss"] for entry in bridge.state.log_history if "loss" in entry]
    return {"weights": held(student, chosen), "said": said}


# --- Lightning: each process takes other numbers of rows --------------------------------------------------------------


class Dealt(Sampler[list[int]]):
    """Batches of 8, 8 and 6 rows: on two processes the first takes 5, 4 and 1 of them."""

    def __init__(self, processes: int) -> None:
        self.processes = processes

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        for begin, end, first in ((0, 8, 5), (8, 16, 4), (16, 22, 1)):
            rows = list(range(begin, end))
            yield rows if self.processes == 1 else (rows[:first], rows[first:])[rank]


def net(seed: int) -> torch.nn.Sequential:
    with seeded(seed):
        return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()


def fitted(folder: Path, processes: int, kind: str, accumulate: int) -> dict[str, Any]:
    import lightning

    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (22,), generator=draw)
    labels[::3] = -100
    data = lb.ArrayDataset(torch.randn(22, 5, generator=draw, dtype=torch.float64), labels)
    student, teacher = net(0), net(1)
    with seeded(5):
        chosen = losses(kind, 0.5 * Loss(squared_error, student="0", teacher="1", head=lb.Projector()))
        module = DistillModule(
            student, chosen, teacher, example=data.take(torch.arange(8)), accumulate=accumulate,
            optimizer=lb.Optimizer("sgd", lr=0.1, warmup=1, clip=0.5),
        )  # fmt: skip
    loader = DataLoader(IdDataset(data), batch_sampler=Dealt(processes), collate_fn=collate)
    said: list[float] = []

    class Listening(lightning.Callback):
        """Writes down what is logged after each step of the optimizer, and each look at development data."""

        taken = 0

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            before, self.taken = self.taken, trainer.global_step
            if self.taken != before:
                said.append(float(trainer.callback_metrics["train_loss"]))

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            said.append(float(trainer.callback_metrics["val_accuracy"]))

    more = {"strategy": "ddp", "devices": processes} if processes > 1 else {"devices": 1}
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, log_every_n_steps=1,
        callbacks=[Listening()], default_root_dir=str(folder), **more,
    )  # fmt: skip
    trainer.fit(module, loader, loader)
    return {"weights": held(student, chosen), "said": said}


SCENARIOS: dict[str, tuple[str, int]] = {
    "one batch a step": (MIXED, 1),
    "two batches": (MIXED, 2),
    "pairs": (COMPARED, 1),
}


def play(bridge: str, folder: Path, processes: int) -> dict[str, Any]:
    """Every scenario: the weights of student and heads, and what was logged."""
    go = {"trainer": trained, "lightning": fitted}[bridge]
    return {name: go(folder, processes, *scenario) for name, scenario in SCENARIOS.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = play(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK", "0")
    (Path(sys.argv[2]) / f"{sys.argv[1]}{rank}.json").write_text(json.dumps(result))
