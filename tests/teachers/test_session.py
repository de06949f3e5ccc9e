"""Sessions of teachers: outputs that are computed ahead, in threads, and in wrappers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from limbeck import ArrayDataset, CachedTeacher, Ensemble, ModelTeacher, ShuffledLoader, ShuffledTeacher, distill
from limbeck.batch import Batch, Outputs
from limbeck.data import TorchLoader
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.recipe import Stage
from limbeck.teachers import (
    FunctionSession,
    SharedInputs,
    Teacher,
    TeacherCapabilities,
    TeacherContext,
    TeacherSession,
)


def network(seed: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, classes))


class PoolSession(TeacherSession):
    """Answers in threads, later batches faster than earlier ones."""

    def __init__(self, inner: TeacherSession, teacher: PooledTeacher) -> None:
        self.inner, self.teacher, self.outstanding = inner, teacher, 0

    @property
    def ahead(self) -> int:
        return self.teacher.count

    def __enter__(self) -> PoolSession:
        self.inner.__enter__()
        self.pool = ThreadPoolExecutor(2)
        return self

    def __exit__(self, *raised: object) -> None:
        self.pool.shutdown()
        self.inner.__exit__(*raised)

    def __call__(self, batch: Batch) -> Outputs:
        return self.inner(batch)

    def submit(self, batch: Batch):
        self.outstanding += 1
        self.teacher.most = max(self.teacher.most, self.outstanding)
        self.teacher.submitted += 1
        return self.pool.submit(self._answer, batch, 0.004 * (self.teacher.submitted % 3))

    def _answer(self, batch: Batch, delay: float) -> Outputs:
        time.sleep(delay)
        self.teacher.threads.add(threading.get_ident())
        self.outstanding -= 1
        if self.teacher.fails_at == self.teacher.submitted:
            raise LimbeckError("The server is gone.")
        return self.inner(batch)


class PooledTeacher(Teacher):
    """A slow teacher that is served by two threads."""

    def __init__(self, model: nn.Module, count: int, *, fails_at: int | None = None) -> None:
        self.inner, self.count, self.fails_at = ModelTeacher(model), count, fails_at
        self.submitted = self.most = 0
        self.threads: set[int] = set()

    def open(self, context: TeacherContext) -> TeacherSession:
        return PoolSession(self.inner.open(context), self)

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def describe(self):
        return self.inner.describe()


def data(batch_size: int = 6) -> ShuffledLoader:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(5))
    return ShuffledLoader(ArrayDataset(x, torch.arange(40) % 3), batch_size=batch_size, seed=2)


def learn(teacher, loader=None, *, steps: int | None = None, **options):
    run = distill(network(1), make("hinton", teacher=teacher), loader or data(), seed=3, log_every=2, **options)
    for report in run:
        if steps is not None and report.step >= steps:
            break
    return run


def weights(run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in [*run.student.parameters(), *run.student.buffers()]])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("wrap", [lambda t: t, ShuffledTeacher, lambda t: Ensemble(t, t)], ids=["own", "shuf", "ens"])
def test_a_teacher_in_threads_gives_the_same_bits(count, wrap):
    served = PooledTeacher(network(0), count)
    expected = learn(wrap(ModelTeacher(network(0))), epochs=3)
    run = learn(wrap(served), epochs=3)
    assert torch.equal(weights(run), weights(expected))
    members = 2 if isinstance(run.stages[0].teacher, Ensemble) else 1
    assert served.submitted == members * 3 * 7
    assert served.most <= members * (count + 1)
    assert threading.get_ident() not in served.threads


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stop", [2, 6, 8, 14])
def test_a_resumed_run_goes_on_after_the_batches_that_were_used(tmp_path, stop, accumulate):
    options = {"epochs": 4, "accumulate": accumulate, "checkpoint_seconds": 0.0}
    expected = learn(ModelTeacher(network(0)), **options)
    learn(PooledTeacher(network(0), 3), steps=stop, out=tmp_path, **options)
    run = learn(PooledTeacher(network(0), 3), out=tmp_path, resume=True, **options)
    assert torch.equal(weights(run), weights(expected))


def test_several_steps_on_a_window_and_windows_without_a_step():
    """`times` asks once for the outputs of a window, `every` not at all where the stage takes no step."""
    kl, found, served = Loss(kl_divergence), [], []
    for kind in (ModelTeacher, lambda model: PooledTeacher(model, 2)):
        teachers = [kind(network(0)), kind(network(4))]
        recipe = Stage(kl, teacher=teachers[0], times=2) & Stage(kl, teacher=teachers[1], trains="other", every=2)
        models = {"student": network(1), "other": network(2)}
        distill(models, recipe, data(), epochs=2, seed=3).finish()
        found.append(torch.cat([p.detach().flatten() for model in models.values() for p in model.parameters()]))
        served = [teacher.submitted for teacher in teachers if isinstance(teacher, PooledTeacher)]
    assert torch.equal(*found)
    assert served == [14, 7]


def test_the_epoch_in_reports_is_that_of_the_batches():
    epochs = []
    for teacher in (ModelTeacher(network(0)), PooledTeacher(network(0), 3)):
        run = distill(network(1), make("hinton", teacher=teacher), data(), epochs=3, log_every=1)
        epochs.append([(report.step, report.epoch) for report in run])
    assert epochs[0] == epochs[1]


def test_batches_that_may_draw_random_numbers_are_not_read_early():
    served = PooledTeacher(network(0), 3)
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(5))
    loader = TorchLoader(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.arange(40) % 3), 8))
    learn(served, loader, epochs=1)
    assert served.submitted == 0


def test_the_error_of_a_thread_is_raised():
    with pytest.raises(LimbeckError, match="server is gone"):
        learn(PooledTeacher(network(0), 1, fails_at=3), epochs=2)


def test_by_default_a_future_is_computed_at_once():
    session = FunctionSession(lambda batch: Outputs(logits=batch.inputs))
    assert session.ahead == 0
    future = session.submit(Batch(torch.eye(2)))
    assert future.done()
    assert torch.equal(future.result()["logits"], torch.eye(2))
    broken = FunctionSession(lambda batch: Outputs(logits=batch.inputs[9])).submit(Batch(torch.eye(2)))
    assert isinstance(broken.exception(), IndexError)


def test_a_session_that_is_not_entered_has_touched_nothing():
    model = network(0).train()
    ModelTeacher(model).open(TeacherContext(requires=frozenset({"0"})))
    assert model.training
    assert not model[0]._forward_hooks


def test_capabilities_of_wrappers_are_those_of_all():
    class Declared(Teacher):
        fingerprint = ""

        def __init__(self, **values):
            self.values = values

        @property
        def capabilities(self):
            return TeacherCapabilities(**self.values)

        def open(self, context):
            return FunctionSession(lambda batch: Outputs())

    both = Ensemble(Declared(gradients=True, tokenizer="a"), Declared(changes=True, deterministic=False))
    assert both.capabilities == TeacherCapabilities(False, True, False, "a", False)
    assert not ShuffledTeacher(nn.Identity()).capabilities.deterministic
    with pytest.raises(LimbeckError, match="2 tokenizers"):
        Ensemble(Declared(tokenizer="a"), Declared(tokenizer="b"))
    with pytest.raises(LimbeckError, match=r"teacher 1 .*'quantized'"):
        Ensemble(nn.Identity(), Declared(partial=True))


def test_a_cache_of_some_classes_declares_it(tmp_path):
    assert CachedTeacher(nn.Identity(), tmp_path, encoding={"name": "top-k", "k": 2}).capabilities.partial
    assert not CachedTeacher(nn.Identity(), tmp_path).capabilities.partial


def test_shared_inputs_are_computed_once_for_a_batch():
    calls = []
    shared = SharedInputs(lambda batch: calls.append(1) or batch.inputs)
    one, other = Batch(torch.zeros(1)), Batch(torch.ones(1))
    assert [float(shared(batch)) for batch in (one, one, other, one)] == [0.0, 0.0, 1.0, 0.0]
    assert len(calls) == 3


@pytest.mark.parametrize("stop", [0.5, 1.0])
def test_batches_of_steps_in_which_the_teacher_has_no_weight_are_not_submitted(stop):
    teacher = PooledTeacher(network(0), 3)
    recipe = make("eskd", teacher=teacher, stop=stop)
    run = distill(network(1), recipe, data(), seed=3, epochs=2).finish()
    assert teacher.submitted == stop * run.history[-1].steps
    alone = distill(network(1), make("eskd", teacher=network(0), stop=stop), data(), seed=3, epochs=2).finish()
    assert torch.equal(weights(run), weights(alone))
