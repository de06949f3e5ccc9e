"""Does a store give back what was put in, whatever happened to it meanwhile, or say that it cannot?"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck import files
from limbeck.errors import DataError, LimbeckError
from limbeck.store import Column, Keys, Origin, Place, Store, make, writing
from limbeck.store.index import Index

CLASSES = 5
COLUMN = Column(make("float32", classes=CLASSES))
ORIGIN = Origin("teacher", "data", None, "reads", "float32", {"logits": COLUMN.spec})


def answers(ids, view=-1):
    """What the teacher of these tests says of an example: numbers that no other view of an example has."""
    base = torch.as_tensor(ids, dtype=torch.float32) * 10 + view
    return base[:, None] + torch.arange(CLASSES)


def keys(ids, view=-1):
    return Keys(np.asarray(ids, np.int64), np.full(len(ids), view, np.int64))


def add(writer, ids, view=-1):
    id, views = torch.as_tensor(ids), torch.full((len(ids),), view)
    writer.append(keys(ids, view), {"logits": COLUMN.encode(answers(ids, view), id=id, view=views)})


def read(store, ids, view=-1):
    rows = store.rows(np.asarray(ids, np.int64), view)
    assert (rows >= 0).all()
    return store.read(rows, "logits")


def filled(folder, batches=((3, 0), (1, 4), (2, 5)), *, shard_bytes=1, view=-1):
    with writing(Place(folder), ORIGIN, shard_bytes=shard_bytes) as writer:
        for batch in batches:
            add(writer, batch, view)
    return Store(folder)


# --- what was put in comes back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_bytes", [1, 45, 10**9])
def test_answers_are_found_by_example_in_any_order(tmp_path, shard_bytes):
    store = filled(tmp_path / "s", shard_bytes=shard_bytes)
    assert len(store) == 6
    for wanted in ([0, 1, 2, 3, 4, 5], [5, 5, 0], [2]):
        assert torch.equal(read(store, wanted), answers(wanted))
    assert store.rows(np.array([6, -1, 0, 10**12]), -1).tolist()[:2] == [-1, -1]
    assert store.rows(np.array([6, -1, 0, 10**12]), -1)[3] == -1
    assert (store.rows(np.array([0, 1]), 0) == -1).all()
    assert store.verify() == []


def test_every_view_has_an_answer_of_its_own(tmp_path):
    folder = tmp_path / "s"
    with writing(Place(folder), ORIGIN, shard_bytes=50) as writer:
        for view in (0, 1, 7):
            add(writer, [0, 1, 2], view)
    store = Store(folder)
    for view in (0, 1, 7):
        assert torch.equal(read(store, [2, 0], view), answers([2, 0], view))
    mixed = store.rows(np.array([0, 1, 2, 2]), np.array([7, 0, 1, 5]))
    assert mixed[-1] == -1
    assert torch.equal(store.read(mixed[:3], "logits")[:, 0], torch.tensor([7.0, 10.0, 21.0]))


def test_ids_of_any_kind_are_found():
    rng = np.random.default_rng(0)
    ids = rng.choice(2**62, 300, replace=False) - 2**61
    views = np.arange(300) % 3
    index = Index(Keys(ids, views))
    order = rng.permutation(300)
    assert (index.rows(ids[order], views[order]) == order).all()
    assert (index.rows(ids, views + 1) == -1).all()
    assert (index.rows(ids + 1, views) == -1).all()
    many = Index(Keys(np.repeat(ids[:10], 30), np.tile(np.arange(30), 10)))
    assert (many.rows(np.repeat(ids[:10], 30), np.tile(np.arange(30), 10)) == np.arange(300)).all()
    assert (many.rows(ids[:10], 29) == np.arange(29, 300, 30)).all()


@pytest.mark.parametrize("far", [0, 2**40])
def test_of_an_answer_that_is_there_twice_the_first_counts(far):
    index = Index(Keys(np.array([4, 2, 4]) + far, np.array([-1, -1, -1])))
    assert index.rows(np.array([4, 2]) + far, -1).tolist() == [0, 1]


def test_texts_of_different_lengths_take_no_room_beyond_their_own(tmp_path):
    column = Column(make("float32", classes=3), None)
    origin = replace(ORIGIN, answers={"logits": column.spec})
    lengths = torch.tensor([2, 5, 1, 4])
    whole = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    with writing(Place(tmp_path / "s"), origin, shard_bytes=1) as writer:
        for batch in ([2, 0], [1, 3]):
            id = torch.tensor(batch)
            found = column.encode(whole[id], id=id, view=torch.full_like(id, -1), lengths=lengths[id])
            assert len(found) == lengths[id].sum()
            writer.append(Keys(id.numpy(), np.full(2, -1), lengths[id].numpy()), {"logits": found})
    store = Store(tmp_path / "s")
    for wanted in ([0, 1, 2, 3], [3, 2], [1, 1, 0]):
        rows = store.rows(np.array(wanted), -1)
        found = store.read(rows, "logits", longest=6)
        assert found.shape == (len(wanted), 6, 3)
        for place, example in enumerate(wanted):
            assert torch.equal(found[place, : lengths[example]], whole[example, : lengths[example]])
    assert store.read(store.rows(np.array([0, 2]), -1), "logits").shape == (2, 2, 3)


def test_other_shapes_and_dimensions_come_back(tmp_path):
    maps = torch.randn(2, 4, 3, 6)
    for column in (
        Column(make("float32", classes=4), (3, 6), (), 1),
        Column(make("float32", classes=72), (), (), -1, (4, 3, 6)),
    ):
        id = torch.arange(2)
        records = column.encode(maps, id=id, view=id * 0)
        assert records.shape == (2, column.width)
        assert torch.equal(column.decode(records, (2,)), maps)
        assert Column.from_spec(column.spec) == column or Column.from_spec(column.spec).spec == column.spec
    with pytest.raises(LimbeckError, match=r"has \[7\] positions, and the store was begun with \[\]"):
        COLUMN.encode(torch.zeros(2, 7, CLASSES), id=id, view=id)


def test_an_address_that_fsspec_opens_is_as_good(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "mirror"))
    address = f"memory://{tmp_path.name}/answers"
    store = filled(address)
    assert torch.equal(read(store, [5, 0]), answers([5, 0]))
    with writing(Place(address), ORIGIN, shard_bytes=1) as writer:
        add(writer, [6])
    (tmp_path / "mirror").rename(tmp_path / "gone")  # another machine, which has fetched nothing yet
    store = Store(address)
    assert torch.equal(read(store, [6, 1]), answers([6, 1]))
    fetched = next((tmp_path / "mirror").rglob("000000.safetensors"))
    fetched.write_bytes(fetched.read_bytes()[:-1] + b"x")
    assert torch.equal(read(Store(address), [3]), answers([3]))  # fetched again
    with pytest.raises(LimbeckError, match="no address that fsspec can open"):
        Place("nosuch://bucket/answers")


# --- kills ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


STEPS = [(files.os, "replace"), (files.os, "fsync"), (Path, "write_bytes")]


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
    store = Store(folder)
    assert store.verify() == []
    held = [i for i in range(6) if store.rows(np.array([i]), -1)[0] >= 0]
    assert len(held) == len(store)
    if held:
        assert torch.equal(read(store, held), answers(held))


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from store.test_store import ORIGIN, Place, add, writing
with writing(Place(sys.argv[1]), ORIGIN, shard_bytes=200) as writer:
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
    store = Store(folder)
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
    return read(Store(folder), range(6))


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
    assert torch.equal(read(Store(folder), range(6)), answers(range(6)))


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
        read(Store(folder), [4])
    assert ["000001" in str(error) for error in Store(folder).verify()] == [True]
    with (
        pytest.warns(UserWarning, match="will be asked again"),
        writing(Place(folder), ORIGIN, shard_bytes=1) as writer,
    ):
        add(writer, [1, 4])
    store = Store(folder)
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
        Store(folder)
    with pytest.raises(DataError, match=r"manifest\.json was edited or is damaged"):
        filled(folder)


def test_another_version_of_the_layout_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "s"
    monkeypatch.setattr("limbeck.store.manifest.FORMAT", "limbeck answers 2")
    filled(folder)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"format 'limbeck answers 2', and this version reads 'limbeck answers 1'"):
        Store(folder)


# --- what a store is not for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["teacher", "data", "views", "reads", "precision"])
def test_another_origin_is_refused_by_its_field(tmp_path, field):
    filled(tmp_path / "s")
    other = replace(ORIGIN, **{field: "other"})
    with (
        pytest.raises(LimbeckError, match=rf"\({field}\): it has {getattr(ORIGIN, field)}, and this run has other"),
        writing(Place(tmp_path / "s"), other),
    ):
        pass


def test_another_encoding_or_address_is_refused(tmp_path):
    filled(tmp_path / "s")
    narrow = Column(make("float16", classes=CLASSES)).spec
    for told, said in (({"logits": narrow}, "encoding of logits"), ({"layer3": narrow}, r"\(answers\)")):
        with (
            pytest.raises(LimbeckError, match=said),
            writing(Place(tmp_path / "s"), replace(ORIGIN, answers=told)),
        ):
            pass


def test_two_writers_of_one_process_are_refused(tmp_path):
    with (
        writing(Place(tmp_path / "s"), ORIGIN),
        pytest.raises(LimbeckError, match="is being written already"),
        writing(Place(tmp_path / "s"), ORIGIN),
    ):
        pass


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("what", [(Path, "write_bytes"), (files.os, "fsync")])
def test_what_the_disk_refuses_is_a_sentence_and_what_was_kept_stays(tmp_path, monkeypatch, code, what):
    folder = tmp_path / "s"
    filled(folder, [[0, 1]])

    def refusing(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    said = "The disk is full" if code == errno.ENOSPC else "cannot be written to"
    with writing(Place(folder), ORIGIN, shard_bytes=10**9) as writer:
        add(writer, [2])
        monkeypatch.setattr(*what, refusing)
        with pytest.raises(LimbeckError, match=said):
            writer.seal()
        monkeypatch.undo()
    assert torch.equal(read(Store(folder), [0, 1]), answers([0, 1]))
    assert len(Store(folder)) == 2
    assert not list(folder.rglob("*.partial"))


def test_a_place_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(LimbeckError, match="cannot be written to"),
        writing(Place(tmp_path / "file" / "s"), ORIGIN),
    ):
        pass
    with pytest.raises(DataError, match=r"no store of answers at .*manifest\.json"):
        Store(tmp_path)


def test_a_reader_sees_what_was_added_after_it_looks_again(tmp_path):
    store = filled(tmp_path / "s", [[0, 1]])
    filled(tmp_path / "s", [[2]])
    assert store.rows(np.array([2]), -1)[0] == -1
    store.refresh()
    assert torch.equal(read(store, [2, 1]), answers([2, 1]))
