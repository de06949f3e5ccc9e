"""The training of plain_torch.py with limbeck, twice: with lb.distill, and in your own loop."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import limbeck as lb
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.metrics import accuracy, predict

inputs, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
inputs = inputs.float() / 16
train, test = (inputs[:1000], labels[:1000]), lb.Batch(inputs[1000:], labels=labels[1000:])
soft_targets = 0.1 * lb.Loss(cross_entropy) + 0.9 * lb.Loss(kl_divergence, temperature=4.0)


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def own_loop(student: nn.Module, teacher: nn.Module, epochs: int) -> None:
    """The loop of plain_torch.py: limbeck computes the loss, the rest is unchanged."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    distillation = lb.DistillationLoss(student, soft_targets, teacher)
    for _ in range(epochs):
        for rows in torch.randperm(1000).split(64):
            x, y = train[0][rows], train[1][rows]
            output = distillation((x, y))  # .loss, .logits and .terms of one forward pass
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()


if __name__ == "__main__":
    torch.manual_seed(0)
    teacher, student, other = network(256), network(8), network(8)
    # lb.distill adds metrics, checkpoints, checks and the schedule.
    budget = {"epochs": 30, "batch_size": 64, "optimizer": lb.Optimizer(lr=1e-2, decay="constant")}
    lb.distill(teacher, lb.Stage(lb.Loss(cross_entropy)), train, **budget).finish()
    lb.distill(student, lb.Stage(soft_targets, teacher=teacher), train, **budget).finish()
    own_loop(other, teacher, epochs=30)
    for name, model in {"teacher": teacher, "student": student, "own loop": other}.items():
        print(f"{name} {accuracy(predict(model, [test])).value:.3f}", end="  ")
    print()
