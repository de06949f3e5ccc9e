"""Distillation with soft targets in plain PyTorch. with_limbeck.py does the same with limbeck."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

inputs, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
inputs = inputs.float() / 16
train, test = slice(0, 1000), slice(1000, None)


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def accuracy(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        right = model(inputs[test]).argmax(1) == labels[test]
    model.train()
    return right.float().mean().item()


def fit(model: nn.Module, loss_of, epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(1000).split(64):
            x, y = inputs[train][rows], labels[train][rows]
            loss = loss_of(model(x), x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def soft_targets(logits, x, y, temperature=4.0):
    with torch.no_grad():
        targets = F.log_softmax(teacher(x) / temperature, 1)
    answers = F.log_softmax(logits / temperature, 1)
    soft = F.kl_div(answers, targets, log_target=True, reduction="batchmean") * temperature**2
    return 0.1 * F.cross_entropy(logits, y) + 0.9 * soft


if __name__ == "__main__":
    torch.manual_seed(0)
    teacher, student = network(256), network(8)
    fit(teacher, lambda logits, x, y: F.cross_entropy(logits, y), epochs=30)
    teacher.eval()
    fit(student, soft_targets, epochs=30)
    print(f"teacher {accuracy(teacher):.3f}  student {accuracy(student):.3f}")
