"""Distillation in a LightningModule: training loop, callbacks and loggers are Lightning's."""

import logging
import warnings

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

import limbeck as lb
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.integrations import DistillModule, IdDataset, collate


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def fit(model: nn.Module, objective, teacher=None) -> float:
    module = DistillModule(
        model, objective, teacher, example=next(iter(train)), optimizer=lb.Optimizer(lr=1e-2, decay="constant")
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=30, enable_model_summary=False, **quiet)
    trainer.fit(module, train)
    return trainer.validate(module, test, verbose=False)[0]["val_accuracy"]


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # Lightning's advice on workers and validation
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    inputs, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    examples = lb.ArrayDataset(inputs.float() / 16, labels)
    train = DataLoader(IdDataset(examples.select(torch.arange(1000))), batch_size=64, shuffle=True, collate_fn=collate)
    test = DataLoader(IdDataset(examples.select(torch.arange(1000, len(examples)))), batch_size=256, collate_fn=collate)

    lightning.seed_everything(0, verbose=False)
    teacher, student = network(256), network(8)
    print(f"teacher {fit(teacher, lb.Loss(cross_entropy)):.3f}")
    soft_targets = 0.1 * lb.Loss(cross_entropy) + 0.9 * lb.Loss(kl_divergence, temperature=4.0)
    print(f"student {fit(student, soft_targets, teacher):.3f}")
