"""Files are written whole, and never through a link that somebody planted."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from limbeck import atomic_io
from limbeck.atomic_io import (
    append_text,
    atomic_write,
    check_no_folder_links,
    folder_lock,
    make_folder,
    new_partial_folder,
    partial_path,
    truncate,
    write_text,
)
from limbeck.errors import DataError, LimbeckError
from limbeck.metrics import save_tensors
from limbeck.models import save
from limbeck.models.weights import write_weights

MINE = "four years of work\n"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the person's own, outside of the folder that is worked in."""
    file = tmp_path / "thesis.tex"
    file.write_text(MINE)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir()
    return made


WRITERS = {
    "text": lambda path: write_text("new", path),
    "tensors": lambda path: save_tensors({"test": torch.eye(2)}, path),
    "weights": lambda path: write_weights({"w": torch.eye(2)}, path, header={}),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ["page", ".page.partial"])
@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["symlink", "hard link"])
def test_a_planted_link_is_replaced_and_never_written_through(folder, victim, writer, name, plant):
    plant(victim, folder / name)
    WRITERS[writer](folder / "page")
    assert victim.read_text() == MINE
    assert (folder / "page").is_file()
    assert not (folder / "page").is_symlink()
    assert not partial_path(folder / "page").exists()


def test_a_folder_in_the_way_of_a_part_is_removed(folder):
    (folder / ".page.partial").mkdir()
    write_text("new", folder / "page")
    assert (folder / "page").read_text() == "new"


def test_what_fails_leaves_the_old_file_and_no_part(folder):
    write_text("old", folder / "page")

    def fail() -> None:
        with atomic_write(folder / "page") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(folder) == ["page"]
    assert (folder / "page").read_text() == "old"


def test_a_file_has_the_mode_that_the_person_allows(folder):
    before = os.umask(0o027)
    try:
        save_tensors({"test": torch.eye(2)}, folder / "page")
    finally:
        os.umask(before)
    assert (folder / "page").stat().st_mode & 0o777 == 0o640


def test_a_log_that_is_a_link_is_refused(folder, victim):
    (folder / "log").symlink_to(victim)
    for change in (lambda: append_text("more", folder / "log"), lambda: truncate(folder / "log", 0)):
        with pytest.raises(DataError, match="link"):
            change()
    assert victim.read_text() == MINE


def test_a_log_with_a_second_name_gets_bytes_of_its_own(folder, victim):
    os.link(victim, folder / "log")
    append_text("more", folder / "log")
    assert victim.read_text() == MINE
    assert (folder / "log").read_text() == MINE + "more"


def test_a_pipe_is_refused_and_waited_for_by_nobody(folder):
    os.mkfifo(folder / "log")
    with pytest.raises((DataError, OSError)):
        append_text("more", folder / "log")
    with pytest.raises(DataError, match="neither"):
        check_no_folder_links(folder)


@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["symlink", "hard link"])
def test_a_lock_that_is_a_link_is_replaced(folder, victim, plant):
    plant(victim, folder / ".lock")
    with folder_lock(folder):
        assert victim.read_text() == MINE
    assert victim.read_text() == MINE


def test_a_folder_that_is_a_link_is_refused(folder, tmp_path):
    (tmp_path / "home").mkdir()
    (folder / "arms").mkdir()
    (folder / "arms" / "distilled").symlink_to(tmp_path / "home")
    with pytest.raises(DataError, match="distilled"):
        check_no_folder_links(folder)
    with pytest.raises(DataError, match="distilled"), folder_lock(folder):
        pass


def test_a_link_to_a_file_and_a_link_to_the_folder_itself_are_let_be(folder, victim, tmp_path):
    (folder / "data.npz").symlink_to(victim)
    (tmp_path / "other").symlink_to(folder)
    check_no_folder_links(tmp_path / "other")


def test_a_part_of_a_folder_is_made_anew_where_a_link_lies(folder, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine").write_text(MINE)
    (folder / ".export.partial").symlink_to(tmp_path / "home")
    assert os.listdir(new_partial_folder(folder / "export")) == []
    assert (tmp_path / "home" / "mine").read_text() == MINE


def test_a_folder_takes_another_ones_place_in_one_step(tmp_path, monkeypatch):
    """Also where the system cannot exchange names, in two steps."""
    for can in (True, False):
        for name in ("new", "folder"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text(name)
        if not can:
            monkeypatch.setattr(atomic_io, "_exchange", lambda one, other: False)
        elif sys.platform == "linux":
            monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("for a moment there is no folder"))
        atomic_io.replace_folder(tmp_path / "new", tmp_path / "folder")
        monkeypatch.undo()
        assert (tmp_path / "folder" / "file").read_text() == "new"
        assert [one.name for one in tmp_path.iterdir()] == ["folder"]
        shutil.rmtree(tmp_path / "folder")


@pytest.mark.parametrize("write", [make_folder, new_partial_folder, lambda path: save(torch.nn.Linear(2, 2), path)])
def test_a_file_in_place_of_a_folder_is_named(folder, victim, write):
    for path in (victim, victim / "below") if write is make_folder else (victim / "below",):
        with pytest.raises(LimbeckError, match=f"{victim.name} is a file"):
            write(path)
    assert victim.read_text() == MINE
    assert not list(folder.iterdir())


def test_a_folder_that_exists_is_kept(folder):
    (folder / "notes.txt").write_text(MINE)
    make_folder(folder)
    assert (folder / "notes.txt").read_text() == MINE
