"""The cache after a kill, a flipped bit or a full disk: whole, or refused."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.stored import CLASSES, ORIGIN, add, answers, filled, read
from limbeck import atomic_io
from limbeck.cache import CacheReader, Column, Location, Manifest, Shard, make_encoding, open_writer, repair
from limbeck.errors import DataError, LimbeckError

# --- kills ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


STEPS = [(atomic_io.os, "replace"), (atomic_io.os, "fsync"), (Path, "write_bytes")]


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_a_kill_at_every_write_leaves_a_whole_store(tmp_path, monkeypatch, step):
    where, what = STEPS[step]
    for call in range(9):
        folder, real, seen = tmp_path / f"{call}", getattr(where, what), []

        def dying(*args, _real=real, _seen=seen, _call=call, **kwargs):
            _seen.append(1)
            if len(_seen) == _call + 1:
                raise Killed
            return _real(*args, **kwargs)

        monkeypatch.setattr(where, what, dying)
        died = False
        try:
            filled(folder)
        except Killed:
            died = True
        finally:
            monkeypatch.setattr(where, what, real)
        _check_whole(folder)
        store = filled(folder, [[i] for i in range(6)])
        assert torch.equal(read(store, range(6)), answers(range(6)))
        named = {one.file for one in store.manifest.shards}
        assert {f"shards/{path.name}" for path in (folder / "shards").iterdir()} == named
        if not died:
            break
    assert call > 1


def _check_whole(folder):
    """What is there is right; what is not there is nothing."""
    if not (folder / "manifest.json").is_file():
        return
    store = CacheReader(folder)
    assert store.verify() == []
    held = [i for i in range(6) if store.rows(np.array([i]), -1)[0] >= 0]
    assert len(held) == len(store)
    if held:
        assert torch.equal(read(store, held), answers(held))


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from limbeck.cache import Location, open_writer
from cache.stored import ORIGIN, add
with open_writer(Location(sys.argv[1]), ORIGIN, shard_bytes=200) as writer:
    for first in range(0, 10**6, 3):
        add(writer, range(first, first + 3))
        print(first, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_process_leaves_a_whole_store_that_goes_on(tmp_path):
    folder = tmp_path / "s"
    tests = str(Path(__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), tests], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 90:
            break
    with pytest.raises(LimbeckError, match=r"is being written already, by another process"):
        filled(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = CacheReader(folder)
    count = len(store)
    assert count >= 60
    assert store.verify() == []
    assert torch.equal(read(store, range(count)), answers(range(count)))
    store = filled(folder, [[count, count + 1]])
    assert torch.equal(read(store, [count + 1, 0]), answers([count + 1, 0]))


# --- damage ---------------------------------------------------------------------------------------------------------


def _flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def read_all(folder):
    return read(CacheReader(folder), range(6))


def test_no_flipped_bit_is_read_as_good(tmp_path):
    folder = tmp_path / "s"
    filled(folder)
    rng, every = np.random.default_rng(0), sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(300):
        path = every[rng.integers(len(every))]
        kept = path.read_bytes()
        _flip(path, rng)
        with pytest.raises(DataError, match=path.name):
            read_all(folder)
        path.write_bytes(kept)
    assert torch.equal(read(CacheReader(folder), range(6)), answers(range(6)))


@pytest.mark.parametrize("harm", ["cut", "gone", "longer", "empty"])
def test_a_damaged_shard_is_refused_and_the_others_are_kept(tmp_path, harm):
    folder = tmp_path / "s"
    filled(folder)
    path = folder / "shards" / "000001.safetensors"
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-7], "gone": b"", "longer": data + b"\0", "empty": b""}[harm])
    if harm == "gone":
        path.unlink()
    with pytest.raises(DataError, match=r"000001\.safetensors"):
        read(CacheReader(folder), [4])
    assert ["000001" in str(error) for error in CacheReader(folder).verify()] == [True]
    with (
        pytest.warns(UserWarning, match="computed again"),
        open_writer(Location(folder), ORIGIN, shard_bytes=1) as writer,
    ):
        add(writer, [1, 4])
    store = CacheReader(folder)
    assert torch.equal(read(store, range(6)), answers(range(6)))
    assert store.verify() == []


@pytest.mark.parametrize(
    "edit", [(b'"teacher": "teacher"', b'"teacher": "another"'), (b"shards", b"shard5"), (b" ", b"\t")]
)
def test_an_edited_manifest_is_refused(tmp_path, edit):
    folder = tmp_path / "s"
    filled(folder)
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(*edit, 1))
    with pytest.raises(DataError, match=r"manifest\.json was edited or is damaged"):
        CacheReader(folder)
    with pytest.raises(DataError, match=r"manifest\.json was edited or is damaged"):
        filled(folder)


def test_another_version_of_the_layout_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "s"
    monkeypatch.setattr("limbeck.cache.manifest.FORMAT", "limbeck answers 2")
    filled(folder)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"format 'limbeck answers 2', and this version reads 'limbeck answers 1'"):
        CacheReader(folder)


@pytest.mark.parametrize("file", ["../../elsewhere/000000.safetensors", "/etc/passwd", "shards/../x", "shards/x"])
def test_a_strangers_manifest_names_no_file_outside_of_its_store(file):
    told = Manifest(ORIGIN, {}, (Shard(file, 1, 1, "0", "0"),)).to_bytes()
    with pytest.raises(DataError, match="is no name of a shard"):
        Manifest.from_bytes(told, name="s")


def test_what_cannot_be_fetched_now_is_not_dropped(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path))
    address = f"memory://{tmp_path.name}/answers"
    filled(address)
    shutil.rmtree(Location(address).local)

    def refusing(*args, **kwargs):
        raise OSError("timed out")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "get_file", refusing)
    for look in (
        lambda: filled(address, [[0]]),
        lambda: repair(Location(address)),
        lambda: CacheReader(address).verify(),
    ):
        with pytest.raises(LimbeckError, match=r"cannot be fetched: timed out"):
            look()
    monkeypatch.undo()
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path))
    assert torch.equal(read(CacheReader(address), range(6)), answers(range(6)))


def test_what_cannot_be_read_now_is_not_dropped(tmp_path, monkeypatch):
    folder = tmp_path / "s"
    filled(folder)

    def refusing(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("limbeck.cache.shard._sha256", refusing)
    for look in (
        lambda: filled(folder, [[0]]),
        lambda: repair(Location(folder)),
        lambda: read(CacheReader(folder), [0]),
    ):
        with pytest.raises(LimbeckError, match=r"safetensors cannot be read now: Permission denied"):
            look()
    monkeypatch.undo()
    assert torch.equal(read(CacheReader(folder), range(6)), answers(range(6)))


# --- what a store is not for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["teacher", "data", "views", "preprocess", "precision"])
def test_another_origin_is_refused_by_its_field(tmp_path, field):
    filled(tmp_path / "s")
    other = replace(ORIGIN, **{field: "other"})
    with (
        pytest.raises(LimbeckError, match=r"it has .*, and this run has .*other"),
        open_writer(Location(tmp_path / "s"), other),
    ):
        pass


def test_another_encoding_or_address_is_refused(tmp_path):
    filled(tmp_path / "s")
    narrow = Column(make_encoding("float16", classes=CLASSES)).spec
    for told, said in (({"logits": narrow}, "encoding of logits"), ({"layer3": narrow}, r"\(outputs\)")):
        with (
            pytest.raises(LimbeckError, match=said),
            open_writer(Location(tmp_path / "s"), replace(ORIGIN, outputs=told)),
        ):
            pass


def test_two_writers_of_one_process_are_refused(tmp_path):
    with (
        open_writer(Location(tmp_path / "s"), ORIGIN),
        pytest.raises(LimbeckError, match="is being written already"),
        open_writer(Location(tmp_path / "s"), ORIGIN),
    ):
        pass


def test_who_may_not_write_leaves_no_file(tmp_path):
    with (
        open_writer(Location(tmp_path / "s"), ORIGIN, files={"head": b"first"}),
        pytest.raises(LimbeckError, match="is being written already"),
        open_writer(Location(tmp_path / "s"), ORIGIN, files={"head": b"second"}),
    ):
        pass
    assert (tmp_path / "s" / "head").read_bytes() == b"first"
    with open_writer(
        Location(tmp_path / "s"), ORIGIN, files={"head": b"third"}
    ):  # it belongs to the store that is there
        pass
    assert (tmp_path / "s" / "head").read_bytes() == b"first"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("what", [(Path, "write_bytes"), (atomic_io.os, "fsync")])
def test_what_the_disk_refuses_is_a_sentence_and_what_was_kept_stays(tmp_path, monkeypatch, code, what):
    folder = tmp_path / "s"
    filled(folder, [[0, 1]])

    def refusing(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    said = "The disk is full" if code == errno.ENOSPC else "cannot be written to"
    with open_writer(Location(folder), ORIGIN, shard_bytes=10**9) as writer:
        add(writer, [2])
        monkeypatch.setattr(*what, refusing)
        with pytest.raises(LimbeckError, match=said):
            writer.seal()
        monkeypatch.undo()
    assert torch.equal(read(CacheReader(folder), [0, 1]), answers([0, 1]))
    assert len(CacheReader(folder)) == 2
    assert not list(folder.rglob("*.partial"))


def test_a_disk_that_was_full_before_is_a_sentence(tmp_path, monkeypatch):
    def refusing(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("limbeck.atomic_io.os.write", refusing)
    monkeypatch.setattr(Path, "write_bytes", refusing)
    with pytest.raises(LimbeckError, match="The disk is full"):
        filled(tmp_path / "s")
    monkeypatch.undo()
    filled(tmp_path / "s")
    assert torch.equal(read(CacheReader(tmp_path / "s"), range(6)), answers(range(6)))


def test_a_place_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(LimbeckError, match="cannot be written to"),
        open_writer(Location(tmp_path / "file" / "s"), ORIGIN),
    ):
        pass
    with pytest.raises(DataError, match=r"manifest\.json"):
        CacheReader(tmp_path)


def test_a_reader_sees_what_was_added_after_it_looks_again(tmp_path):
    store = filled(tmp_path / "s", [[0, 1]])
    filled(tmp_path / "s", [[2]])
    assert store.rows(np.array([2]), -1)[0] == -1
    store.refresh()
    assert torch.equal(read(store, [2, 1]), answers([2, 1]))


def test_a_reader_does_not_take_another_store_for_its_own(tmp_path):
    store = filled(tmp_path / "s", [[0, 1]])
    shutil.rmtree(tmp_path / "s")
    with open_writer(Location(tmp_path / "s"), replace(ORIGIN, teacher="another")) as writer:
        add(writer, [2])
    with pytest.raises(DataError, match="was replaced by another one while it was read"):
        store.refresh()
