"""Several processes fill one cache: the outputs have the bits of a single process's, also after kills."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from fork_server import fork_command, poll_command
from killing import states_at_kills
from limbeck import RandomShift, ShuffledLoader
from limbeck.cache import CachePart, CacheReader, Location, has_parts, join_parts
from limbeck.errors import ArgumentError, LimbeckError, LimbeckWarning
from limbeck.teachers import CachedTeacher, TeacherContext, fill_cache
from small_jobs import environment
from teachers.asked import Counting, examples, make_loader
from waiting import within

COUNT = 26  # examples, in batches of 4: the last one has two


def fill(folder, part=None, *, network=None, views=1, through=None):
    teacher = CachedTeacher(network or Counting(), folder, encoding="float32", through=through, shard_bytes=200)
    augment = RandomShift(1) if views > 1 else None
    loader = make_loader(COUNT, batch_size=4, shuffle=False, augment=augment)
    return list(fill_cache(teacher, loader, views=views, part=part))


def records(folder) -> dict[tuple[int, int], bytes]:
    """The bytes of every output by example and view."""
    reader = CacheReader(folder)
    assert reader.verify() == []
    keys, found = reader.keys, {}
    for address in sorted(reader.columns):
        rows = reader.records(np.arange(len(reader)), address)
        for key, row in zip(zip(keys.id.tolist(), keys.view.tolist(), strict=True), rows, strict=True):
            found[key] = found.get(key, b"") + row.tobytes()
    return found


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_make_the_cache_of_a_single_process(views, order, tmp_path):
    fill(tmp_path / "one", views=views)
    done = [fill(tmp_path / "parts", CachePart(number, 3), views=views)[-1] for number in order]
    assert sum(done) == COUNT * views
    one, parts = records(tmp_path / "one"), records(tmp_path / "parts")
    assert len(one) == COUNT * views
    assert parts == one
    assert not has_parts(Location(tmp_path / "parts"))
    if views == 1:
        keys = CacheReader(tmp_path / "parts").keys
        assert keys.id.tolist() == CacheReader(tmp_path / "one").keys.id.tolist(), "the order too"


def test_a_part_computes_its_own_batches_once(tmp_path):
    network = Counting()
    fill(tmp_path / "s", CachePart(1, 2), network=network)
    fill(tmp_path / "s", CachePart(1, 2), network=network)
    assert network.asked == [4, 4, 4]
    fill(tmp_path / "s", CachePart(2, 2), network=network)
    assert sum(network.asked) == 7 * 4
    fill(tmp_path / "s", network=network)
    assert sum(network.asked) == 7 * 4


def test_a_build_without_part_joins_what_is_there_and_computes_the_rest(tmp_path):
    network = Counting()
    fill(tmp_path / "s", CachePart(2, 4), network=network)
    asked = len(network.asked)
    fill(tmp_path / "s", network=network)
    assert len(network.asked) == 7
    assert asked == 2
    fill(tmp_path / "one")
    assert records(tmp_path / "s") == records(tmp_path / "one")


def test_a_last_layer_comes_along(tmp_path):
    fill(tmp_path / "one", through="out")
    for number in (1, 2):
        fill(tmp_path / "s", CachePart(number, 2), through="out")
    assert records(tmp_path / "s") == records(tmp_path / "one")
    loader = make_loader(COUNT, batch_size=4)
    with CachedTeacher(None, tmp_path / "s").open(TeacherContext(loader=loader)) as answer:
        batch = loader.peek()
        torch.testing.assert_close(answer(batch)["logits"], Counting()(batch.inputs).detach())


def test_a_kill_while_parts_are_joined_loses_nothing(tmp_path):
    fill(tmp_path / "one")
    folder = tmp_path / "s"
    fill(folder, CachePart(1, 3))
    fill(folder, CachePart(2, 3))
    states = states_at_kills(folder, lambda: join_parts(Location(folder)), tmp_path / "kept")
    assert len(states) > 5
    for state in states:
        fill(state)
        assert records(state) == records(tmp_path / "one"), state.name
        assert not has_parts(Location(state))
    shutil.rmtree(tmp_path / "kept")


def test_parts_at_a_remote_address(tmp_path, monkeypatch):
    pytest.importorskip("fsspec")
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "mirror"))
    where = f"memory://parts-{tmp_path.name}"
    for number in (2, 1):
        fill(where, CachePart(number, 2), through="out")
    fill(tmp_path / "one", through="out")
    assert records(where) == records(tmp_path / "one")
    assert not has_parts(Location(where))


def test_a_damaged_part_is_computed_again(tmp_path):
    fill(tmp_path / "one")
    fill(tmp_path / "s", CachePart(1, 2))
    shard = next((tmp_path / "s" / "parts" / "1-of-2" / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.warns(LimbeckWarning, match="damaged"):
        fill(tmp_path / "s")
    assert records(tmp_path / "s") == records(tmp_path / "one")


def test_training_says_that_parts_are_not_joined(tmp_path):
    fill(tmp_path / "s", CachePart(1, 2))
    loader = make_loader(COUNT, batch_size=4)
    teacher = CachedTeacher(Counting(), tmp_path / "s", encoding="float32")
    with teacher.open(TeacherContext(loader=loader)) as answer, pytest.warns(LimbeckWarning, match="not joined"):
        answer(loader.peek())


def test_a_part_of_another_teacher_or_one_that_is_written_is_refused(tmp_path):
    fill(tmp_path / "s", CachePart(1, 2))
    with pytest.raises(LimbeckError, match="another teacher"):
        fill(tmp_path / "s", CachePart(1, 2), network=Counting(1))
    fill(tmp_path / "t")
    shutil.copytree(tmp_path / "s" / "parts", tmp_path / "t" / "parts")
    fill(tmp_path / "t")
    other = CachedTeacher(Counting(), tmp_path / "s", encoding="float32")
    filling = fill_cache(other, make_loader(COUNT, batch_size=4, shuffle=False), part=CachePart(2, 2))
    next(filling)
    with pytest.raises(LimbeckError, match="already"):
        join_parts(Location(tmp_path / "s"))
    filling.close()


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", ""])
def test_no_part(text):
    with pytest.raises(ArgumentError):
        CachePart.parse(text)


def test_batches_that_cannot_be_counted_have_no_parts(tmp_path):
    class Endless(ShuffledLoader.__mro__[1]):
        examples_per_epoch, fingerprint = None, "endless"

        def batches(self, epoch, start):
            yield from make_loader(COUNT).batches(epoch, start)

        def order(self, epoch):
            raise NotImplementedError

    loader = Endless(examples(), batch_size=4, seed=0, augment=None, views=None)
    with pytest.raises(LimbeckError, match="cannot be counted"):
        list(fill_cache(CachedTeacher(Counting(), tmp_path), loader, part=CachePart(1, 2)))


WORKER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from limbeck.cache import CachePart
from limbeck.teachers import CachedTeacher, fill_cache
from teachers.asked import Counting, make_loader
teacher = CachedTeacher(Counting(), sys.argv[1], encoding="float32", shard_bytes=200)
for done in fill_cache(teacher, make_loader(26, batch_size=4, shuffle=False), part=CachePart.parse(sys.argv[3])):
    print(done, flush=True)
    time.sleep(float(sys.argv[4]))
"""


def work(folder, part, pause):
    """A process that fills a part: its number, and the file with what it says."""
    tests, said = str(Path(__file__).parent.parent), folder.parent / f"said-{part[0]}-{pause}"
    words = ["-c", WORKER, str(folder), tests, part, str(pause)]
    return fork_command(words, cwd=folder.parent, env=environment(), out=said, err=Path(os.devnull)), said


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_two_processes_of_which_one_is_killed_and_started_again(tmp_path):
    fill(tmp_path / "one")
    first, _ = work(tmp_path / "s", "1/2", 0)
    second, said = work(tmp_path / "s", "2/2", 60)
    assert within(60, said.read_text)
    os.kill(second, signal.SIGKILL)
    poll_command(second, wait=True)
    assert poll_command(first, wait=True) == 0
    assert has_parts(Location(tmp_path / "s"))
    again, _ = work(tmp_path / "s", "2/2", 0)
    assert poll_command(again, wait=True) == 0
    assert not has_parts(Location(tmp_path / "s"))
    assert records(tmp_path / "s") == records(tmp_path / "one")
