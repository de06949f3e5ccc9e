"""A model that teaches is unchanged and in the requested mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.engine import distill
from limbeck.errors import LimbeckError, MissingOutputError, UnknownNameError
from limbeck.functional import jensen_shannon, kernel, kl_divergence, logit_squared_error, squared_error
from limbeck.losses import Loss
from limbeck.recipe import Stage
from limbeck.teachers import Ensemble, ModelTeacher, ShuffledTeacher, TeacherContext, TeacherRef

CPU = torch.device("cpu")


def inputs(batch: Batch) -> torch.Tensor:
    return batch.inputs


class Counting(nn.Module):
    """Counts its forward passes in each mode."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = {True: 0, False: 0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls[self.training] += 1
        return x


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), Counting(), nn.Linear(4, 2))


def test_it_answers_in_eval_mode_without_gradient_and_every_flag_comes_back():
    model = network().train()
    model[1].eval()
    flags = [module.training for module in model.modules()]
    batch = Batch(torch.randn(6, 3))
    with ModelTeacher(model).open(TeacherContext(requires=frozenset({"logits", "0"}))) as answer:
        one, other = answer(batch), answer(batch)
        assert torch.equal(one["logits"], other["logits"])
        assert not one["logits"].requires_grad
        assert torch.allclose(one["0"], model[0](batch.inputs))
    assert model[3].calls == {True: 0, False: 2}
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_trap_30_a_teacher_answers_in_the_precision_that_it_was_loaded_in(dtype):
    """A teacher in half precision is not widened, which would double its memory."""
    model, batch = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).to(dtype).train(), Batch(torch.randn(6, 3))
    with ModelTeacher(model).open(TeacherContext()) as answer:
        logits = answer(batch)["logits"]
        assert logits.dtype == dtype
        assert torch.equal(logits, model[0](batch.inputs.to(dtype)))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_train_mode_draws_noise_and_leaves_the_model_as_it_was():
    model = network().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    batch = Batch(torch.randn(6, 3))
    with ModelTeacher(model, mode="train").open(TeacherContext()) as answer:
        assert not torch.equal(answer(batch)["logits"], answer(batch)["logits"])
    assert model[3].calls == {True: 2, False: 0}
    assert not model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_student_that_shares_a_layer_does_not_wake_the_teacher_s_dropout():
    shared = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    teacher, student = nn.Sequential(shared, nn.Linear(4, 2)), nn.Sequential(shared, nn.Linear(4, 2))
    batch = Batch(torch.randn(6, 3))
    with ModelTeacher(teacher).open(TeacherContext()) as answer:
        student.train()
        assert torch.equal(answer(batch)["logits"], answer(batch)["logits"])
        assert shared[1].training


def test_it_reads_its_own_inputs():
    model = nn.Linear(2, 2)
    batch = Batch(torch.zeros(4, 9), extra={"privileged": torch.randn(4, 2)})
    with ModelTeacher(model, preprocess=lambda b: b.extra["privileged"]).open(
        TeacherContext(requires=frozenset())
    ) as answer:
        assert torch.equal(answer(batch)["logits"], model(batch.extra["privileged"]))


def test_a_wrong_address_is_reported_before_anything_runs():
    model = network()
    with pytest.raises(MissingOutputError, match=r"'layer9'"):
        ModelTeacher(model).open(TeacherContext(requires=frozenset({"layer9"})))
    assert model.training
    assert model[3].calls == {True: 0, False: 0}


def test_a_name_is_a_model_of_the_run():
    model = nn.Linear(2, 2)
    teacher = TeacherRef("peer")
    models = {"student": nn.Identity(), "peer": model}
    assert teacher.resolve(models).fingerprint == ModelTeacher(model).fingerprint
    with teacher.open(TeacherContext(models=models)) as answer:
        x = torch.randn(3, 2)
        assert torch.equal(answer(Batch(x))["logits"], model(x))


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'per'.*Did you mean 'peer'"):
        TeacherRef("per").open(TeacherContext(models={"student": nn.Identity(), "peer": nn.Identity()}))


def test_a_name_outside_of_a_run():
    with pytest.raises(UnknownNameError, match="'peer'"):
        TeacherRef("peer").open(TeacherContext())
    with pytest.raises(LimbeckError, match="'peer'"):
        _ = TeacherRef("peer").fingerprint


def test_the_hash_is_that_of_the_weights():
    model = nn.Linear(2, 2)
    before = ModelTeacher(model).fingerprint
    assert ModelTeacher(model).fingerprint == before
    nn.init.zeros_(model.weight)
    assert ModelTeacher(model).fingerprint != before


class Serving(nn.Module):
    """As serving code is written; what its layers show is of inference mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))

    @torch.inference_mode()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


@kernel(per="position")
def product(student, teacher):
    return (student * teacher).sum(-1)


@pytest.mark.parametrize("function", [kl_divergence, logit_squared_error, squared_error, jensen_shannon, product])
@pytest.mark.parametrize(
    "wrap", [ModelTeacher, lambda model: ModelTeacher(model, mode="train"), ShuffledTeacher, lambda m: Ensemble(m, m)]
)
def test_a_teacher_that_serves_in_inference_mode_teaches(function, wrap):
    student = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    stage = Stage(Loss(function), teacher=wrap(Serving()), epochs=1)
    assert distill(student, stage, torch.randn(8, 3), accelerator="cpu").finish().finished


@pytest.mark.parametrize("address", ["net.0", "net.1", "net.0:in"])
def test_what_its_layers_show_is_what_they_held(address):
    model, batch = Serving(), Batch(torch.randn(6, 3))
    with ModelTeacher(model).open(TeacherContext(requires=frozenset({address}))) as answer:
        shown = answer(batch)[address]
    first = model.net[0](batch.inputs)
    wanted = {"net.0": first, "net.1": first.relu(), "net.0:in": batch.inputs}[address]
    torch.testing.assert_close(shown.clone(), wanted)
