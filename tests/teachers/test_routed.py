"""Each example is taught by the teacher of its route, and no other teacher sees it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError, LimbeckWarning, UnknownNameError
from limbeck.methods import make
from limbeck.teachers import CachedTeacher, Ensemble, RoutedTeacher, TeacherContext, fill_cache
from limbeck.testing import check_teacher


class Scaled(nn.Module):
    """A factor of the inputs; it counts the rows that it has seen."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.rows = nn.Parameter(torch.tensor(factor)), 0

    def forward(self, x):
        self.rows += len(x)
        return self.factor * x


X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
DOMAINS = ["law", "news", "law", "web", "news", "law"]
BATCH = Batch(X, id=torch.arange(6), labels=torch.tensor([0, 1, 2, 0, 1, 2]), extra={"domain": DOMAINS})


def teachers():
    return {"law": Scaled(2.0), "news": Scaled(-1.0)}


def answers(teacher, batch=BATCH, **context):
    with teacher.open(TeacherContext(**context)) as session:
        return session(batch)["logits"], session.submit(batch).result()["logits"]


def test_each_row_comes_from_its_own_teacher_which_sees_no_other():
    own = teachers()
    now, later = answers(RoutedTeacher(own, "domain", default="news"))
    expected = torch.stack([2 * x if name == "law" else -x for x, name in zip(X, DOMAINS, strict=True)])
    assert torch.equal(now, expected)
    assert torch.equal(later, expected)
    assert (own["law"].rows, own["news"].rows) == (6, 6)  # twice 3 rows each


def test_routes_by_values_by_labels_and_by_a_function():
    named = RoutedTeacher(teachers(), "domain", values={"law": "law", "news": ["news", "web"]})
    by_label = RoutedTeacher(teachers(), "labels", values={"law": 0, "news": [1, 2]})
    by_number = RoutedTeacher(teachers(), lambda batch: (batch.inputs[:, 0] > 0).long())
    by_name = RoutedTeacher(teachers(), lambda batch: ["news" if x > 0 else "law" for x in batch.inputs[:, 0]])
    assert torch.equal(answers(named)[0], answers(RoutedTeacher(teachers(), "domain", default="news"))[0])
    assert torch.equal(answers(by_label)[0], torch.where(BATCH.labels[:, None] == 0, 2 * X, -X))
    assert torch.equal(answers(by_number)[0], torch.where(X[:, :1] > 0, -X, 2 * X))
    assert torch.equal(answers(by_number)[0], answers(by_name)[0])


def test_one_teacher_for_all_is_that_teacher_and_an_empty_batch_has_its_shape():
    one = RoutedTeacher(teachers(), "domain", values={"law": ["law", "news", "web"], "news": "x"})
    assert torch.equal(answers(one)[0], 2 * X)
    assert answers(one, BATCH.rows(torch.arange(0)))[0].shape == (0, 3)


def test_the_laws_of_teachers():
    check_teacher(
        RoutedTeacher({"a": nn.Linear(3, 4), "b": nn.Linear(3, 4)}, "labels", values={"a": 0, "b": [1, 2]}), BATCH
    )


def test_a_cache_around_it_and_caches_within_it_hold_the_routed_rows_alone(tmp_path):
    data = ArrayDataset(X, BATCH.labels, extra={"domain": DOMAINS})
    loader = ShuffledLoader(data, batch_size=3)
    own = teachers()
    around = CachedTeacher(RoutedTeacher(own, "domain", default="news"), tmp_path / "around", encoding="float32")
    for _ in fill_cache(around, loader):
        pass
    assert (own["law"].rows, own["news"].rows) == (3, 3)
    inside = {name: CachedTeacher(one, tmp_path / name, encoding="float32") for name, one in teachers().items()}
    batch = next(iter(loader))
    expected = answers(RoutedTeacher(teachers(), "domain", default="news"), batch)[0]
    for teacher in (around, RoutedTeacher(inside, "domain", default="news")):
        assert torch.equal(answers(teacher, batch, loader=loader)[0], expected)


def test_a_student_learns_from_routed_teachers():
    recipe = make("hinton", teacher=RoutedTeacher(teachers(), "domain", default="news"))
    data = ArrayDataset(X, BATCH.labels, extra={"domain": DOMAINS})
    assert distill(nn.Linear(3, 3), recipe, data, epochs=1, batch_size=3).finish().finished


def test_a_value_without_a_teacher_is_found_before_training_wherever_it_stands():
    labels = torch.zeros(64, dtype=torch.int64)
    labels[-1] = 7
    data = ArrayDataset(torch.randn(64, 3), labels)
    teacher = RoutedTeacher(teachers(), "labels", values={"law": 0, "news": 1})
    with pytest.raises(LimbeckError, match=r"labels=7.*0 \(law\), 1 \(news\).*default"):
        distill(nn.Linear(3, 3), make("hinton", teacher=teacher, labels=False), data, epochs=1, batch_size=4, seed=1)
    with pytest.raises(LimbeckError, match="'web'"):
        answers(RoutedTeacher(teachers(), "domain"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({}, "domain"), "teachers by name"),
        (
            ({"a": nn.Identity(), "b": nn.Identity()}, "domain", {"a": "x", "b": ["y", "x"]}),
            "a and b have the same route",
        ),
        (({"a": nn.Identity(), "b": nn.Identity()}, "domain", {"a": "x"}), "b has no route"),
        (({"a": nn.Identity(), "b": nn.Identity()}, "domain", {"a": [["x"]], "b": "y"}), r"teacher a is .*\['x'\]"),
        (({"a": nn.Identity(), "b": nn.Identity()}, "domain", {"a": None, "b": "y"}), "teacher a is .*None"),
        (({"a": nn.Identity()}, len, {"a": "x"}), "values"),
    ],
)
def test_routes_that_make_no_sense(arguments, words):
    given, route, *values = arguments
    with pytest.raises(LimbeckError, match=words):
        RoutedTeacher(given, route, values=values[0] if values else None)


def test_unknown_names_and_columns_get_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'news'"):
        RoutedTeacher(teachers(), "domain", default="newz")
    with pytest.raises(LimbeckError, match="Did you mean 'domain'"):
        answers(RoutedTeacher(teachers(), "domian"))
    with pytest.raises(LimbeckError, match=r"law \[3\], news \[4\]"):
        answers(RoutedTeacher({"law": nn.Linear(3, 3), "news": nn.Linear(3, 4)}, "domain", default="news"))


def test_its_hash_depends_on_the_route_and_the_teachers():
    own = {"law": nn.Linear(2, 2), "news": nn.Linear(2, 2)}
    prints = {
        RoutedTeacher(own, "domain").fingerprint,
        RoutedTeacher(own, "source").fingerprint,
        RoutedTeacher(own, "domain", default="law").fingerprint,
        RoutedTeacher(own, "domain", values={"law": 1, "news": 2}).fingerprint,
        RoutedTeacher(own, lambda batch: batch.labels).fingerprint,
        RoutedTeacher(dict(reversed(own.items())), "domain").fingerprint,
    }
    assert len(prints) == 6
    assert RoutedTeacher(own, "domain").fingerprint in prints


# The outputs of each member of an ensemble.


def test_an_ensemble_has_the_outputs_of_each_member():
    first, second = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)), nn.Linear(3, 5)
    both = Ensemble(first, second, member_names=["a", "b"])
    requires = frozenset({"a.logits", "a.0", "b.logits"})  # of other classes: only their average is refused
    with both.open(TeacherContext(requires=requires)) as session:
        outputs = session(BATCH)
    assert set(outputs) == requires
    assert torch.equal(outputs["a.0"], first[0](X))
    assert torch.equal(outputs["b.logits"], second(X))


def test_a_member_that_is_not_read_does_not_run():
    own = teachers()
    with Ensemble(*own.values(), member_names=list(own)).open(
        TeacherContext(requires=frozenset({"law.logits"}))
    ) as session:
        session(BATCH)
    assert (own["law"].rows, own["news"].rows) == (6, 0)


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "b.c"], "ab"])
def test_names_of_members_that_are_none(names):
    with pytest.raises(LimbeckError, match=r"member_names|called"):
        Ensemble(nn.Identity(), nn.Identity(), member_names=names)


def test_a_mistyped_route_is_noted_where_its_examples_go_to_the_default():
    data = ArrayDataset(torch.randn(8, 3), torch.arange(8) % 3, extra={"domain": ["law", "news"] * 4})
    teacher = RoutedTeacher(teachers(), "domain", values={"law": "lawn"}, default="news")
    context = TeacherContext(loader=ShuffledLoader(data, batch_size=4))
    with pytest.warns(LimbeckWarning, match="Did you mean 'law'"):
        teacher.open(context)
