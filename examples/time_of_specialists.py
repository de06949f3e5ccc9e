"""Time per example of a generalist with specialists, compared with the generalist alone.

    python examples/time_of_specialists.py

A resnet20 of 100 classes, ten specialists of 20 classes each, random weights and images; one thread.
"""

import copy

import torch
from torch.utils.benchmark import Timer

from limbeck import Batch, ModelTeacher, Specialists, build
from limbeck.functional import pooled
from limbeck.metrics import answer_latency
from limbeck.teachers import special_classes

torch.set_num_threads(1)
torch.manual_seed(0)
batch = Batch(torch.randn(256, 3, 32, 32))
generalist = build("resnet20", channels=3, classes=100, seed=0).eval()
with torch.no_grad():
    # Random weights predict one class for every image; subtracting the mean makes all classes occur.
    generalist.classifier.bias -= generalist(batch.inputs).mean(0)
    generalist.classifier.weight *= 30
    generalist.classifier.bias *= 30
    members = [copy.deepcopy(generalist) for _ in range(10)]
    for member in members:
        member.classifier.bias += torch.randn(100)
groups = [torch.randperm(100)[:20].tolist() for _ in members]
alone = answer_latency(ModelTeacher(generalist), batch, repeats=5)
print(f"the generalist alone     {alone:.3f} ms for one example")
for active in (1, 2):
    milliseconds = answer_latency(Specialists(generalist, members, groups, active=active), batch, repeats=5)
    print(f"with specialists, n = {active}  {milliseconds:.3f} ms, {milliseconds / alone:.1f} times as long")

with torch.no_grad():
    outputs = torch.stack([member(batch.inputs) for member in (generalist, *members)], 1).log_softmax(-1)
special = special_classes(tuple(map(tuple, groups)), 100)
selected = special.T[outputs[:, 0].argmax(-1)]
timer = Timer(
    "pooled(outputs[:, 0], outputs[:, 1:], special, selected)",
    globals={"pooled": pooled, "outputs": outputs, "special": special, "selected": selected},
)
print(f"of that for pooling      {1e3 * timer.blocked_autorange().median / 256:.3f} ms")
print(f"specialists evaluated per example at n = 1: {selected.sum(1).float().mean():.1f}")
