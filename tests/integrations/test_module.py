"""DistillModule minimizes the same loss as limbeck's engine."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning", reason="lightning is not installed (extra lightning)")

import limbeck as lb
from integrations.tiny import engine_loss, gradients, objective
from limbeck.errors import LimbeckError
from limbeck.functional import squared_error
from limbeck.integrations import DistillModule, IdDataset, collate
from limbeck.losses import Loss

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def net(seed):
    with lb.models.seeded(seed):
        return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def examples(*, missing=False):
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (22,), generator=draw)
    labels[::3] = -100 if missing else labels[::3]
    return lb.ArrayDataset(torch.randn(22, 5, generator=draw), labels)


def fit(module, data, size, *, epochs=2, shuffle=False, **more):
    loader = DataLoader(IdDataset(data), batch_size=size, collate_fn=collate, shuffle=shuffle)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=epochs, enable_model_summary=False, **quiet, **more)
    trainer.fit(module, loader, **({"val_dataloaders": loader} if more.get("limit_val_batches") else {}))
    return trainer


def example(data):
    return data.take(torch.arange(8))


def test_one_batch_has_the_loss_and_gradient_of_the_engine():
    student, teacher, batch = net(0), net(1), example(examples())
    chosen = objective() + 0.5 * Loss(squared_error, student="0", teacher="1")
    loss, expected = engine_loss(copy.deepcopy(student), copy.deepcopy(chosen), teacher, batch)
    module = DistillModule(student, chosen, teacher, example=batch)
    with module.distillation as distillation:
        found = distillation.loss(batch)
    found.backward()
    assert found.item() == loss
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(student).items())


@pytest.mark.parametrize("missing", [False, True])
def test_it_trains_as_the_engine_does_however_a_step_is_split(missing):
    data = examples(missing=missing)
    optimizer = lb.Optimizer("sgd", lr=0.1, warmup=1, clip=0.5)
    expected = net(0)
    loader = lb.ShuffledLoader(data, batch_size=16, shuffle=False)
    lb.distill(expected, lb.Stage(objective(), teacher=net(1)), loader, epochs=2, optimizer=optimizer).finish()
    for size, accumulate in ((16, 1), (4, 4)):
        student = net(0)
        module = DistillModule(
            student, objective(), net(1), example=example(data), optimizer=optimizer, accumulate=accumulate
        )
        trainer = fit(module, data, size)
        assert trainer.global_step == 4
        mine, theirs = student.state_dict(), expected.state_dict()
        assert all(torch.allclose(tensor, theirs[name], atol=1e-6) for name, tensor in mine.items())


def test_the_teacher_is_no_part_of_it_and_heads_are():
    teacher = net(1)
    chosen = objective() + Loss(squared_error, student="0", teacher="2", head=lb.Projector())
    module = DistillModule(net(0), chosen, teacher, example=example(examples()))
    before = copy.deepcopy(teacher.state_dict())
    begun = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert {name.split(".")[0] for name in begun} == {"student", "objective"}
    heads = {id(parameter) for parameter in module.distillation.objective.parameters()}
    assert heads == {id(parameter) for parameter in module.objective.parameters()}
    trainer = fit(module, examples(), 8, limit_val_batches=1.0)
    assert all(torch.equal(tensor, teacher.state_dict()[name]) for name, tensor in before.items())
    assert all(not torch.equal(tensor, begun[name]) for name, tensor in module.state_dict().items())
    assert 0.0 <= float(trainer.callback_metrics["val_accuracy"]) <= 1.0
    assert trainer.callback_metrics["train_loss"] > 0


def test_schedulers_of_the_user_are_stepped():
    class Own(DistillModule):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            by_step = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": by_step, "interval": "step"}}

    trainer = fit(Own(net(0), objective(), net(1), example=example(examples())), examples(), 8)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5**6)


def test_kept_answers_are_read_without_the_teacher(tmp_path):
    data, students = examples(), [net(0), net(0)]
    for student, teacher in zip(students, (net(1), None), strict=True):
        kept = lb.CachedTeacher(teacher, tmp_path / "answers", encoding="float32")
        fit(DistillModule(student, objective(), kept, example=example(data), loader=IdDataset(data)), data, 8)
    first, second = (student.state_dict() for student in students)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_fit_that_fails_closes_the_teacher():
    teacher = net(1).train()
    module = DistillModule(net(0), objective(), teacher, example=example(examples()))
    with pytest.raises(RuntimeError):
        fit(module, lb.ArrayDataset(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64)), 8)
    assert teacher.training


def test_bad_input_is_one_sentence(tmp_path):
    data = examples()
    batch = example(data)
    with pytest.raises(LimbeckError, match="accumulate must be a whole number"):
        DistillModule(net(0), objective(), net(1), example=batch, accumulate=0)
    with pytest.raises(LimbeckError, match=r"cross_entropy.*labels"):
        DistillModule(net(0), objective(), net(1), example=batch._replace(labels=None))
    with pytest.raises(LimbeckError, match="the teacher 4"):
        DistillModule(net(0), objective(), torch.nn.Linear(5, 4), example=batch)
    with pytest.raises(LimbeckError, match="ids"):
        DistillModule(net(0), objective(), lb.CachedTeacher(net(1), tmp_path / "store"), example=batch)
