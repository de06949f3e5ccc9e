"""A training loop of one's own with limbeck's loss: what it costs in lines, what it gives, and how it ends."""

from __future__ import annotations

import copy
import difflib
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import limbeck as lb
from integrations.tiny import bert, engine_loss, gradients, objective, texts
from limbeck.errors import DataError, LimbeckError
from limbeck.functional import cross_entropy, kl_divergence, squared_error
from limbeck.integrations import DistillationLoss
from limbeck.methods import make
from small_jobs import environment

PLAIN = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x, y = torch.randn(96, 6), torch.randint(0, 3, (96,))
loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
teacher = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))
student = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
average = torch.optim.swa_utils.AveragedModel(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * len(loader))
for epoch in range(3):
    right = 0
    for images, labels in loader:
        with torch.autocast("cpu", torch.bfloat16):
            logits = student(images)
            loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(student)
        right += (logits.argmax(-1) == labels).sum().item()
    print(epoch, right / len(x), loss.item())
"""

TAUGHT = (
    PLAIN.replace(
        "from torch.utils.data import DataLoader, TensorDataset\n",
        "from torch.utils.data import DataLoader, TensorDataset\n\nimport limbeck as lb\n"
        "from limbeck.functional import cross_entropy, kl_divergence\n",
    )
    .replace(
        "for epoch in range(3):\n",
        "objective = 0.1 * lb.Loss(cross_entropy) + 0.9 * lb.Loss(kl_divergence, temperature=4.0)\n"
        "distillation = lb.DistillationLoss(student, objective, teacher)\nfor epoch in range(3):\n",
    )
    .replace(
        "            logits = student(images)\n            loss = F.cross_entropy(logits, labels)\n",
        "            loss, logits, terms = distillation((images, labels))\n",
    )
    .replace("loss.item())", "loss.item(), {name: value.item() for name, value in terms.items()})")
)


def test_it_costs_eight_lines_and_indents_none(tmp_path):
    """Against a loop with autocast, clipping, a schedule and an average; and it ends without a word, nothing closed."""
    changes = [line for line in difflib.ndiff(PLAIN.splitlines(), TAUGHT.splitlines()) if line[:1] in "+-"]
    added = [line[2:] for line in changes if line[0] == "+" and line[2:].strip()]
    removed = [line[2:].strip() for line in changes if line[0] == "-"]
    assert len(added) <= 8
    assert not {line.strip() for line in added} & set(removed)  # that is, no line is the same but for its indent
    (tmp_path / "loop.py").write_text(TAUGHT)
    done = subprocess.run(
        [sys.executable, "loop.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "'kl_divergence'" in done.stdout


def net(seed, width=5):
    with lb.models.seeded(seed):
        return nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 3)
        )


def data(count=8):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, 4, generator=draw), torch.randint(0, 3, (count,), generator=draw)


def test_whatever_distill_takes_gives_the_same_loss():
    (x, y), teacher = data(), net(1)
    student = nn.Linear(4, 3)
    distillation = DistillationLoss(student, objective(), teacher)
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    items = [
        lb.Batch(x, labels=y),
        (x, y),
        [x, y],
        (x.numpy(), y.numpy()),
        {"inputs": x, "labels": y},
        next(iter(loader)),
    ]
    losses = {distillation(item).loss.item() for item in items}
    assert len(losses) == 1
    assert {
        engine_loss(copy.deepcopy(student), objective(), copy.deepcopy(teacher), lb.Batch(x, labels=y))[0]
    } == losses
    with pytest.raises(DataError, match="to_batch="):
        distillation((x, y, torch.arange(8)))
    triples = DistillationLoss(student, objective(), teacher, to_batch=lambda item: lb.Batch(item[0], labels=item[1]))
    assert triples((x, y, torch.arange(8))).loss.item() in losses


def test_texts_as_a_hugging_face_loader_gives_them():
    batch = texts().take(torch.arange(6))
    distillation = DistillationLoss(bert(seed=0), objective(), bert(seed=1))
    output = distillation({**batch.inputs, "labels": batch.labels})
    assert output.loss == distillation.loss(batch)
    assert output.logits.shape == (6, 2)


def test_terms_and_logits_come_with_the_loss_of_one_forward_pass():
    (x, y), student, calls = data(), nn.Linear(4, 3), []
    distillation = DistillationLoss(student, objective(), net(1), example=(x, y))
    student.register_forward_hook(lambda *_: calls.append(1))
    loss, logits, terms = distillation((x, y))
    assert len(calls) == 1
    assert torch.equal(logits, student(x))
    assert terms["cross_entropy"].item() == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-6)
    assert loss.item() == pytest.approx((0.3 * terms["cross_entropy"] + 0.7 * terms["kl_divergence"]).item(), rel=1e-6)
    assert loss.requires_grad
    assert logits.requires_grad
    assert not any(term.requires_grad for term in terms.values())


def test_the_teacher_is_in_eval_mode_until_it_is_closed():
    (x, y), teacher, student = data(), net(1).train(), nn.Linear(4, 3)
    before = copy.deepcopy(teacher.state_dict())
    distillation = DistillationLoss(student, objective(), teacher)
    first = distillation((x, y)).terms["kl_divergence"]
    teacher.train()  # as loops do that put everything into training mode
    assert distillation((x, y)).terms["kl_divergence"] == first
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    teacher.eval()
    distillation.close()
    distillation.close()
    assert teacher.training
    assert not any(module._forward_hooks for module in teacher.modules())
    assert distillation((x, y)).terms["kl_divergence"] == first  # and it opens again
    with distillation as same:
        assert same is distillation
    assert teacher.training


def test_it_closes_when_it_is_forgotten():
    teacher = net(1).train()
    distillation = DistillationLoss(nn.Linear(4, 3), objective(), teacher)
    distillation(data())
    assert not teacher.training
    del distillation
    assert teacher.training


def test_the_first_batch_looks_at_everything_and_changes_nothing():
    """The trial is under saved random numbers and running statistics."""
    (x, y), student = data(), net(0)
    distillation, again = DistillationLoss(student, objective(), net(1)), copy.deepcopy(student)
    torch.manual_seed(3)
    loss = distillation((x, y)).loss
    torch.manual_seed(3)
    assert DistillationLoss(again, objective(), net(1), example=(x, y))((x, y)).loss == loss
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in student.state_dict().items())
    with pytest.raises(LimbeckError, match="Label 7"):
        DistillationLoss(net(0), objective(), net(1))((x, torch.full_like(y, 7)))


def test_under_autocast_every_step_has_its_gradient():
    (x, y), student = data(), nn.Linear(4, 3)
    distillation = DistillationLoss(student, objective(), net(1))
    expected = {}
    for step in range(3):
        student.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = distillation((x, y))
        output.loss.backward()
        found = gradients(student)
        assert found.keys() == {"weight", "bias"}
        expected = expected or found
        assert all(torch.equal(found[name], expected[name]) for name in found), step
        assert output.logits.dtype == torch.bfloat16
        assert output.loss.dtype == torch.float32
    plain = DistillationLoss(student, objective(), net(1))
    student.zero_grad()
    plain((x, y)).loss.backward()
    assert all(torch.allclose(student.get_parameter(name).grad, expected[name], atol=0.05) for name in expected)


def test_accumulated_batches_have_the_gradient_of_the_whole():
    (x, y), student = data(10), nn.Linear(4, 3)
    y[:3] = -100
    distillation = DistillationLoss(student, objective(), net(1), accumulate=3)
    distillation((x, y)).loss.backward()
    whole = gradients(student)
    student.zero_grad()
    window = list(zip(x.split(4), y.split(4), strict=True))
    counts = distillation.counts(window)
    for batch in window:
        distillation(batch, counts=counts).loss.backward()
    assert all(torch.allclose(gradients(student)[name], tensor, atol=1e-6) for name, tensor in whole.items())


def test_heads_need_an_example():
    hint = lb.Loss(squared_error, student="0", teacher="0", head=lb.Projector())
    with pytest.raises(LimbeckError, match="example="):
        DistillationLoss(nn.Sequential(nn.Linear(4, 3)), lb.Loss(cross_entropy) + hint, net(1))
    distillation = DistillationLoss(
        nn.Sequential(nn.Linear(4, 3)), lb.Loss(cross_entropy) + hint, net(1), example=data()
    )
    assert list(distillation.objective.parameters())
    assert distillation(data()).loss.isfinite()


def test_a_forest_teaches():
    from sklearn.ensemble import RandomForestClassifier

    x, y = data(60)
    forest = RandomForestClassifier(5, random_state=0).fit(x.numpy(), y.numpy())
    assert lb.DistillationLoss(nn.Linear(4, 3), lb.Loss(kl_divergence), forest)((x, y)).loss.isfinite()


def test_a_loss_that_would_never_be_updated_is_refused():
    stage = next(make("hanjabridge", teacher=nn.Linear(6, 3), at="0", student_at="0", task="classification").stages())
    with pytest.raises(LimbeckError, match="queue_distillation"):
        DistillationLoss(nn.Sequential(nn.Linear(6, 3)), stage.objective, nn.Sequential(nn.Linear(6, 3)))
