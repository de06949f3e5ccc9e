"""`limbeck cache build` continues after a kill to the same cache."""

from __future__ import annotations

import os
import signal

import pytest

import limbeck as lb
from limbeck.cache import CacheReader, find_manifest
from limbeck.cache.location import Location
from limbeck.models import build
from small_jobs import blobs, forked

# A shard for each batch; at the n-th file that is to be written it gets half of that one down, and is killed.
SCRIPT = """
import os, signal, sys
from functools import partial
import limbeck.compare.teacher_cache as asking
from limbeck.cli import main
from limbeck.atomic_io import partial_path
from limbeck.cache.location import Location
asking.CachedTeacher = partial(asking.CachedTeacher, shard_bytes=1)
put, seen = Location.put, []
def dying(self, file, data):
    seen.append(file)
    if len(seen) == int(sys.argv[1]):
        path = self.local / file
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_path(path).write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, file, data)
Location.put = dying
main(sys.argv[2:])
"""
BUILD = ("--teacher", "teacher", "--data", "data.npz", "--set", "budget.batch_size=32")


@pytest.mark.filterwarnings("ignore:The teacher.s accuracy is")  # it has learnt nothing
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_build_goes_on_to_the_store_that_no_one_stopped(here, limbeck):
    blobs(here / "data.npz")
    lb.save(build("mlp", inputs=36, classes=5, hidden=[16], seed=0), here / "teacher")
    (here / "dying.py").write_text(SCRIPT)
    # Killed at the manifest of a new store; in its first shard; after its second, before the manifest names that.
    for at, kept in ((1, None), (2, 0), (4, 32)):
        ended = forked("dying.py", at, "cache", "build", *BUILD, "--set", "cache.folder=answers", cwd=here)
        assert ended.code == -signal.SIGKILL, ended.err
        found = find_manifest(Location("answers"))
        assert (None if found is None else len(CacheReader("answers"))) == kept
        if kept is not None:
            assert limbeck("cache", "verify", "answers").code == 0
    for folder in ("answers", "whole"):
        ended = limbeck("cache", "build", *BUILD, "--set", f"cache.folder={folder}", "--json")
        assert ended.code == 0, ended.err
        assert ended.result["answers"] == ended.result["examples"] == 135
    assert limbeck("cache", "verify", "answers").code == 0
    one, other = CacheReader("answers"), CacheReader("whole")
    assert (one.keys.id == other.keys.id).all()
    rows = one.rows(other.keys.id, -1)
    assert (one.records(rows, "logits") == other.records(rows, "logits")).all()
    left = {path.relative_to(here / "answers").as_posix() for path in (here / "answers").rglob("*") if path.is_file()}
    assert left == {"manifest.json", *(shard.file for shard in one.manifest.shards)}
