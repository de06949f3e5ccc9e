"""A model that a method makes around the student is saved, and opened again from Python."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.models import add_projection, build, load, open_model, save
from limbeck.testing.trials import get_trial


class Net(nn.Module):
    """A network of the user's own."""

    def __init__(self, outputs: int = 3, width: int = 8) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, width), nn.ReLU()), nn.Linear(width, outputs)

    def forward(self, x):
        return self.head(self.body(x))


class TupleNet(Net):
    """A network whose embedding is the second output."""

    def forward(self, x):
        return None, super().forward(x)


def rows():
    draw = torch.Generator().manual_seed(0)
    return ArrayDataset(torch.randn(16, 4, generator=draw), torch.arange(16) % 3)


def same(again, run, inputs):
    torch.testing.assert_close(again(inputs), run.student.eval().cpu()(inputs))


@pytest.mark.parametrize("method", ["simkd", "embedding_distillation", "subclass_distillation"])
def test_a_network_of_limbeck_needs_no_function(tmp_path, method):
    student, teacher = (build("mlp", inputs=4, classes=3, hidden=[width], seed=0) for width in (5, 9))
    data = rows()
    run = distill(student, make(method, teacher=teacher), data, epochs=1, out=tmp_path / "run").finish()
    same(load(save(run.student, tmp_path / "s")), run, data.inputs)


def test_maps_of_a_residual_network_are_read_again(tmp_path):
    student, teacher, data = get_trial("resnet")[1]()
    recipe = make("simkd", teacher=teacher, at="layer3", student_at="layer3")
    run = distill(student, recipe, data, epochs=1).finish()
    same(load(save(run.student, tmp_path / "s")), run, data.inputs)


@pytest.mark.parametrize("method", ["simkd", "embedding_distillation"])
def test_a_network_of_one_s_own_is_built_as_it_was_before_the_run(tmp_path, method):
    data = rows()
    run = distill(Net(), make(method, teacher=Net(width=12)), data, epochs=1).finish()
    folder = save(run.student, tmp_path / "s")
    with pytest.raises(LimbeckError, match=r"Net, which is a class of your own.*build=build"):
        load(folder)
    same(load(folder, build=Net), run, data.inputs)


def test_a_file_that_builds_the_student_opens_what_the_method_made_of_it(tmp_path):
    data = rows()
    student = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    run = distill(student, make("simkd", teacher=Net(width=12)), data, epochs=1).finish()
    folder = save(run.student, tmp_path / "s")
    source = (
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))\n"
    )
    (tmp_path / "my.py").write_text(source)
    same(open_model(f"{tmp_path / 'my.py'}:build@{folder}"), run, data.inputs)


def test_with_an_adaptor_the_error_names_limbeck_s_function(tmp_path):
    def second(output):
        return output[1]

    data = rows()
    recipe = make("embedding_distillation", teacher=Net(outputs=5))
    run = distill(TupleNet(), recipe, data, epochs=1, adaptor={"student": second}).finish()
    folder = save(run.student, tmp_path / "s")
    with pytest.raises(LimbeckError, match=r"a class of limbeck around a model of yours.*add_projection"):
        load(folder)
    again = load(folder, build=lambda: add_projection(TupleNet(), width=3, dimension=5, adaptor=second))
    same(again, run, data.inputs)


def test_changes_before_the_method_are_made_again_too(tmp_path):
    data = rows()
    student = lb.models.transform_model(
        nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8)), nn.Linear(8, 3)),
        "keep_layers", {"at": "0", "layers": [0]}, origin={"class": "own"},
    )  # fmt: skip
    run = distill(student, make("simkd", teacher=Net(width=12)), data, epochs=1).finish()
    folder = save(run.student, tmp_path / "s")
    whole = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8)), nn.Linear(8, 3))
    same(load(folder, build=lambda: whole), run, data.inputs)
