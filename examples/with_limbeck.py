"""The same with limbeck: metrics, checkpoints, checks and the schedule come with it. Read it beside plain_torch.py."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import limbeck as lb
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.measure import accuracy, predict

inputs, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
inputs = inputs.float() / 16
train, test = (inputs[:1000], labels[:1000]), lb.Batch(inputs[1000:], labels=labels[1000:])


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


if __name__ == "__main__":
    torch.manual_seed(0)
    teacher, student = network(256), network(8)
    budget = {"epochs": 30, "batch_size": 64, "optimiser": lb.Optimiser(lr=1e-2, decay="constant")}
    lb.distill(teacher, lb.Stage(lb.Loss(cross_entropy)), train, **budget).finish()
    soft_targets = 0.1 * lb.Loss(cross_entropy) + 0.9 * lb.Loss(kl_divergence, temperature=4.0)
    lb.distill(student, lb.Stage(soft_targets, teacher=teacher), train, **budget).finish()
    for name, model in {"teacher": teacher, "student": student}.items():
        print(f"{name} {accuracy(predict(model, [test])).value:.3f}", end="  ")
    print()
