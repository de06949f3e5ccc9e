"""Predictions are collected in the right mode, order and shape, without a trace."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.tree import DecisionTreeClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from limbeck.batch import IGNORED, Batch, Outputs
from limbeck.data import ArrayDataset, ShuffledLoader, TorchLoader
from limbeck.errors import DataError, LimbeckError, MissingOutputError
from limbeck.metrics import accuracy, predict, predict_with_teacher
from limbeck.teachers import Ensemble, ModelTeacher


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def batches(x, labels=None, size=4):
    parts = range(0, len(x), size)
    return [Batch(x[i : i + size], labels=None if labels is None else labels[i : i + size]) for i in parts]


def test_batches_do_not_matter_and_order_is_kept():
    model, x, labels = net(), torch.rand(10, 3), torch.arange(10) % 4
    found = predict(model, batches(x, labels))
    assert torch.allclose(found.student, model.eval()(x).detach())
    assert torch.equal(found.labels, labels)
    assert found.teacher is None
    assert not found.student.requires_grad


def test_flags_and_statistics_are_what_they_were():
    model = net()
    model[1].eval()
    model[1].requires_grad_(False)
    flags = [m.training for m in model.modules()]
    state = {n: t.clone() for n, t in model.state_dict().items()}
    seen = []
    hook = model.register_forward_hook(lambda m, *_: seen.append((m[2].training, torch.is_grad_enabled())))
    predict(model, batches(torch.rand(8, 3)))
    hook.remove()
    assert seen == [(False, False)] * 2
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def test_flags_come_back_after_an_error():
    model = net()
    with pytest.raises(RuntimeError):
        predict(model, batches(torch.rand(8, 7)))
    assert all(m.training for m in model.modules())


def test_reads_give_the_model_its_own_inputs():
    model, x = nn.Linear(3, 4), torch.rand(6, 3)
    found = predict(model, [Batch("unread", id=torch.arange(6), extra={"x": x})], preprocess=lambda b: b.extra["x"])
    assert torch.allclose(found.student, model(x).detach())


def test_teacher_answers_the_same_batches_once():
    model, x, asked = nn.Linear(3, 4), torch.rand(10, 3), []

    def answer(batch):
        asked.append(batch.size)
        assert not torch.is_grad_enabled()
        return Outputs(logits=batch.inputs @ torch.ones(3, 4).double().float() * 2, other=torch.zeros(1))

    once = iter(batches(x))
    found = predict_with_teacher(model, answer, once)
    assert asked == [4, 4, 2]
    assert torch.allclose(found.teacher, x @ torch.ones(3, 4) * 2)
    assert torch.allclose(found.student, model(x).detach())
    assert found.labels is None


def test_a_teacher_is_asked_as_a_model_is():
    first, second, x, labels = nn.Linear(3, 4), net(), torch.rand(10, 3), torch.arange(10) % 4
    found = predict(Ensemble(first, second, mean="geometric"), (x, labels))
    assert second.training
    with torch.no_grad():
        assert torch.allclose(found.student, (first(x) + second.eval()(x)) / 2, atol=1e-6)
    assert torch.equal(found.labels, labels)
    doubled = predict(ModelTeacher(first), x, preprocess=lambda batch: 2 * batch.inputs)
    assert torch.allclose(doubled.student, first(2 * x), atol=1e-6)


def test_a_fitted_classifier_is_asked_and_its_accuracy_is_its_own():
    x, labels = load_iris(return_X_y=True)
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(x, labels)
    found = predict(tree, (torch.tensor(x).float(), torch.tensor(labels)))
    assert accuracy(found).value == pytest.approx(tree.score(x.astype("float32"), labels))


def test_what_answers_nothing_is_refused_in_a_sentence():
    with pytest.raises(LimbeckError, match=r"A list cannot be a teacher.*Ensemble\(\*members\)"):
        predict([nn.Linear(3, 4)], torch.rand(2, 3))
    with pytest.raises(LimbeckError, match=r"ModelTeacher\(module, adaptor=\.\.\.\)"):
        predict(ModelTeacher(nn.Linear(3, 4)), torch.rand(2, 3), adaptor=lambda output: output)


def test_positions_become_rows_and_the_mask_leaves_rows_out():
    x = torch.rand(2, 5, 3)
    labels = torch.arange(10).reshape(2, 5) % 4
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]]).bool()
    model = nn.Linear(3, 4)
    found = predict_with_teacher(
        model, lambda b: Outputs(logits=b.inputs[..., :1].expand(-1, -1, 4)), [Batch(x, labels=labels, mask=mask)]
    )
    assert torch.allclose(found.student, model(x)[mask].detach())
    assert torch.equal(found.teacher[:, 0], x[..., 0][mask])
    assert torch.equal(found.labels, labels[mask])


def test_outputs_and_inputs_of_every_kind():
    class TeacherRef(nn.Module):
        def forward(self, *, a, b):
            return {"logits": (a + b).half()}

    a, b = torch.rand(4, 3), torch.rand(4, 3)
    found = predict(TeacherRef(), [Batch({"a": a, "b": b})])
    assert found.student.dtype == torch.float32
    assert torch.equal(found.student, (a + b).half().float())
    with pytest.raises(MissingOutputError, match="scores"):
        predict(Strange(), [Batch(a)])


class Strange(nn.Module):
    def forward(self, x):
        return {"scores": x}


def test_a_batch_without_labels_among_labeled_ones_has_none_known():
    x = torch.rand(6, 3)
    found = predict(nn.Linear(3, 4), [Batch(x[:2], labels=torch.tensor([1, 2])), Batch(x[2:])])
    assert found.labels.tolist() == [1, 2, *[IGNORED] * 4]


def test_integer_labels_of_any_width_are_widened():
    found = predict(nn.Linear(3, 4), [Batch(torch.rand(2, 3), labels=torch.tensor([1, 2], dtype=torch.uint8))])
    assert found.labels.dtype == torch.int64


def test_what_does_not_fit_is_said():
    model, x = nn.Linear(3, 4), torch.rand(6, 3)
    with pytest.raises(DataError, match="yielded no batch"):
        predict(model, [])
    with pytest.raises(DataError, match=r"labels have the shape \[6, 4\].*call for \[6\]"):
        predict(model, [Batch(x, labels=torch.zeros(6, 4).long())])
    with pytest.raises(DataError, match="mask have the shape"):
        predict(model, [Batch(x, mask=torch.ones(5).bool())])
    with pytest.raises(DataError, match="teacher's logits have the shape"):
        predict_with_teacher(model, lambda b: Outputs(logits=torch.zeros(5, 4)), [Batch(x)])
    with pytest.raises(DataError, match=r"got \[18\]"):
        predict(nn.Flatten(0), [Batch(x)])


def maps():
    """A segmentation network: classes in dimension 1, a label for each pixel, some of which do not count."""
    model, x = nn.Conv2d(3, 4, 1), torch.rand(5, 3, 2, 6)
    labels, mask = torch.randint(4, (5, 2, 6)), torch.rand(5, 2, 6) < 0.7
    return model, Batch(x, labels=labels, mask=mask)


def test_maps_give_a_row_for_each_pixel_that_counts():
    model, batch = maps()
    found = predict(model, [batch], classes=1)
    wanted = model(batch.inputs).permute(0, 2, 3, 1)[batch.mask].detach()
    assert torch.equal(found.student, wanted)
    assert torch.equal(found.labels, batch.labels[batch.mask])
    assert accuracy(found).value == pytest.approx(float((wanted.argmax(1) == found.labels).float().mean()))


def test_maps_beside_a_teacher():
    model, batch = maps()
    found = predict_with_teacher(model, lambda b: Outputs(logits=2 * model(b.inputs)), [batch], classes=1)
    assert torch.allclose(found.teacher, 2 * found.student)


def test_maps_whose_classes_are_looked_for_last():
    model, batch = maps()
    with pytest.raises(DataError, match=r"mask have the shape \[5, 2, 6\].*classes=1"):
        predict(model, [batch])
    with pytest.raises(DataError, match=r"no dimension 7.*\[5, 4, 2, 6\]"):
        predict(model, [batch], classes=7)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(3, 4)

    def forward(self, x, scale):
        return self.classifier(x) * scale.unsqueeze(-1)


def test_whatever_holds_the_data_is_accepted():
    model, x, labels = nn.Linear(3, 4), torch.rand(7, 3), torch.arange(7) % 4
    wanted = predict(model, batches(x, labels))
    arrays = ArrayDataset(x, labels)
    loader = DataLoader(TensorDataset(x, labels), batch_size=2)
    for data in (
        Batch(x, labels=labels),
        arrays,
        (x, labels),
        ShuffledLoader(arrays, batch_size=3, shuffle=False),
        loader,
        list(loader),
        iter(batches(x, labels)),
    ):
        found = predict(model, data)
        assert torch.allclose(found.student, wanted.student), type(data)
        assert torch.equal(found.labels, labels), type(data)
    assert predict(model, x).labels is None
    assert len(predict(Words(), {"x": x, "scale": torch.ones(7), "labels": labels}).labels) == 7


def test_one_pass_over_a_source_leaves_it_where_it_was():
    loader = ShuffledLoader(ArrayDataset(torch.rand(7, 3)), batch_size=3)
    before = loader.state_dict()
    first, second = (predict(nn.Identity(), loader).student for _ in range(2))
    assert loader.state_dict() == before
    assert torch.equal(first, second)


def test_a_loader_is_read_from_its_beginning():
    loader = TorchLoader([(torch.rand(2, 3),), (torch.rand(1, 3),)])
    next(iter(loader))
    assert len(predict(nn.Identity(), loader).student) == 3
    assert loader.peek().size == 1


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("digits", r"'digits' is a name"),
        ([3, 4], r"A batch is int"),
        (TensorDataset(torch.rand(4, 3)), "has no batches"),
        (3, r"The data are int; .*\(inputs, labels\)"),
    ],
)
def test_what_holds_no_data_is_refused_in_a_sentence(data, sentence):
    with pytest.raises(DataError, match=sentence):
        predict(nn.Identity(), data)
