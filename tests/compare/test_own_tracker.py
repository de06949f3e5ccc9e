"""A failing tracker gives a message, and the run can be resumed."""

from __future__ import annotations

import pytest

from limbeck.compare import run_job
from limbeck.errors import LimbeckError
from limbeck.job import make_job
from small_jobs import blobs, small_job

OWN = """
class Full:
    def __init__(self, folder):
        self.folder = folder

    def log(self, values, step):
        if not any((one / "room").exists() for one in self.folder.parents):
            raise RuntimeError("no room left")

    def close(self):
        pass


def absent(folder):
    raise ValueError("no server")
"""


def test_one_that_fails(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    asked = small_job(
        blobs(tmp_path / "blobs.npz"), arms=["student alone", "distilled"], seeds=1, out=str(tmp_path / "run"),
    )  # fmt: skip
    with pytest.raises(LimbeckError, match=r"own.py:absent failed: ValueError: no server"):
        run_job(make_job({**asked, "track": f"{tmp_path / 'own.py'}:absent"}))
    full = make_job({**asked, "track": f"{tmp_path / 'own.py'}:Full"})
    with pytest.raises(LimbeckError, match=r"own.py:Full failed: RuntimeError: no room left.*limbeck resume"):
        run_job(full, resume=True)
    (tmp_path / "run" / "room").touch()
    assert set(run_job(full, resume=True)["arms"]) == {"student alone", "distilled"}
