"""Sampled answers are drawn for the temperature at which they are read, and refused at one that they cannot serve."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from limbeck.cache import CacheReader, make_encoding
from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence, reverse_kl
from limbeck.losses import Loss
from limbeck.methods.logits.hinton import hinton
from limbeck.recipe import Recipe, Stage
from limbeck.schedule import ramp
from limbeck.teachers import CachedTeacher, ShuffledTeacher, fill_cache

OPEN = {"name": "sampled", "draws": 20}


def make_loader() -> ShuffledLoader:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 6, generator=draw)
    return ShuffledLoader(ArrayDataset(inputs, torch.randint(30, (64,), generator=draw)), batch_size=16)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(6, 30)


def powers(folder) -> set[float]:
    return {column.encoding.parameters["power"] for column in CacheReader(folder).columns.values()}


@pytest.mark.parametrize(
    ("temperature", "power"), [(1.0, 1.0), (4.0, 0.25), (2.0, 0.5), (ramp(8.0, start=2.0), 0.125), (0.5, 2.0)]
)
@pytest.mark.parametrize("displaced", [False, True])
def test_a_store_is_drawn_for_the_hottest_temperature_of_its_stage(temperature, power, displaced, tmp_path):
    stored = CachedTeacher(network(1), tmp_path, encoding=OPEN)
    teacher = ShuffledTeacher(stored) if displaced else stored
    distill(
        network(), Stage(Loss(kl_divergence, temperature=temperature), teacher=teacher, epochs=1), make_loader()
    ).finish()
    assert powers(tmp_path) == {power}


def test_a_later_stage_counts(tmp_path):
    teacher = CachedTeacher(network(1), tmp_path, encoding=OPEN)
    stages = [Stage(Loss(kl_divergence, temperature=t), teacher=teacher, epochs=1) for t in (1.0, 4.0)]
    distill(network(), stages[0] >> stages[1], make_loader()).finish()
    assert powers(tmp_path) == {0.25}


def test_a_power_that_was_given_stays_and_is_refused_where_it_does_not_serve(tmp_path):
    teacher = CachedTeacher(network(1), tmp_path, encoding={**OPEN, "power": 1.0})
    distill(network(), hinton(teacher, temperature=1.4, epochs=1), make_loader()).finish()
    assert powers(tmp_path) == {1.0}
    with pytest.raises(LimbeckError, match=r"power=1 .*temperature=4.*0\.25"):
        distill(network(), hinton(teacher, temperature=4.0, epochs=1), make_loader())
    again = CachedTeacher(network(1), tmp_path, encoding={**OPEN, "power": 1.0})
    rising = Loss(kl_divergence, temperature=ramp(9.0, start=1.0))
    with pytest.raises(LimbeckError, match="temperature=9"):
        distill(network(), Stage(rising, teacher=again, epochs=1), make_loader())


def test_a_store_that_was_filled_before_is_taken_as_it_is(tmp_path):
    teacher = CachedTeacher(network(1), tmp_path, encoding=OPEN)
    list(fill_cache(teacher, make_loader()))
    assert powers(tmp_path) == {1.0}
    distill(network(), hinton(teacher, temperature=1.0, epochs=1), make_loader()).finish()
    with pytest.raises(LimbeckError, match=r"power=1 .*temperature=4"):
        distill(
            network(),
            hinton(CachedTeacher(network(1), tmp_path, encoding=OPEN), temperature=4.0, epochs=1),
            make_loader(),
        )


def test_a_run_goes_on_from_its_store(tmp_path):
    def run(resume: bool):
        teacher = CachedTeacher(network(1), tmp_path / "answers", encoding=OPEN)
        recipe = hinton(teacher, temperature=4.0, epochs=2)
        return distill(network(), recipe, make_loader(), out=tmp_path / "run", resume=resume, log_every=1)

    for report in run(False):
        if report.step == 3:
            break
    assert run(True).finish().finished
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"][0]["teacher"]["encoding"]
    assert "power" not in kept


def test_records_refuse_a_temperature_themselves():
    made = make_encoding("sampled", classes=5, draws=3)
    zero = torch.zeros(2, dtype=torch.int64)
    found = made.decode(made.encode(torch.randn(2, 5), id=zero, view=zero, position=zero))
    assert found.compare(kl_divergence, torch.randn(2, 5), temperature=1.5).shape == (2,)
    with pytest.raises(LimbeckError, match="power"):
        found.compare(kl_divergence, torch.randn(2, 5), temperature=1.6)
    with pytest.raises(LimbeckError, match="linear"):
        found.compare(reverse_kl, torch.randn(2, 5))


def test_objectives_know_their_temperatures():
    objective = 0.5 * Loss(kl_divergence) + Loss(reverse_kl, temperature=3)
    assert objective.temperatures == {1.0, 3.0}


TOP = {"name": "top-k", "k": 5}


def kept(folder) -> list[dict]:
    return [column.encoding.parameters for column in CacheReader(folder).columns.values()]


@pytest.mark.parametrize(("temperatures", "also"), [((1.0, 4.0), None), ((2.0,), [2.0]), ((3.0, 1.0, 0.5), [0.5, 3.0])])
def test_a_store_of_the_top_k_keeps_the_rest_at_its_losses_temperatures(temperatures, also, tmp_path):
    teacher = CachedTeacher(network(1), tmp_path, encoding=TOP)
    stages = [Stage(Loss(kl_divergence, temperature=t), teacher=teacher, epochs=1) for t in temperatures]
    distill(network(), Recipe(*stages), make_loader()).finish()
    assert kept(tmp_path)[0].get("temperatures") == also
    again = CachedTeacher(network(1), tmp_path, encoding=TOP)
    distill(network(), hinton(again, temperature=temperatures[0], epochs=1), make_loader()).finish()
    other = CachedTeacher(network(1), tmp_path, encoding=TOP)
    with pytest.raises(LimbeckError, match=r"not at 7.*'temperatures': \[7\]"):
        distill(network(), hinton(other, temperature=7.0, epochs=1), make_loader())


def test_a_temperature_that_moves_wants_another_encoding(tmp_path):
    rising = Stage(Loss(kl_divergence, temperature=ramp(4.0, start=1.0)), epochs=1, teacher=CachedTeacher(
        network(1), tmp_path, encoding=TOP))  # fmt: skip
    with pytest.raises(LimbeckError, match="quantized"):
        distill(network(), rising, make_loader())
    exact = CachedTeacher(network(1), tmp_path, encoding={**TOP, "bits": 32})
    stage = Stage(Loss(kl_divergence, temperature=ramp(4.0, start=1.0)), epochs=1, teacher=exact)
    distill(network(), stage, make_loader()).finish()
