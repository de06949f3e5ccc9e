"""Do processes that are kept between searches work in the folder of the search, with the files that lie there?"""

from __future__ import annotations

import pytest

from limbeck.compare.tuning import tune
from limbeck.job import make_job, read_job
from small_jobs import blobs, contents, small_job

STUDENT = """from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, {width}), nn.ReLU(), nn.Linear({width}, 5))
"""


@pytest.mark.parametrize("teacher", [{"model": "mlp", "hidden": [16]}, {"model": "my.py:build"}])
def test_kept_processes_follow_a_search_to_another_folder(tmp_path, monkeypatch, teacher):
    """Data, student, store and folder are named relatively, and mean others in the second folder than in the first."""
    asked = small_job(
        "blobs.npz", teacher=teacher, student="my.py:build", workers=2, arms=["student alone", "distilled"],
        cache={"folder": "answers", "encoding": "float32"}, out="search",
    )  # fmt: skip
    found, before = {}, {}
    for name, width in (("first", 4), ("second", 9)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        blobs(tmp_path / name / "blobs.npz", seed=width)
        (tmp_path / name / "my.py").write_text(STUDENT.format(width=width))
        found[name] = tune(make_job(asked), trials=2)
        before = before or contents(tmp_path / "first")
        for place in ("search/arms/student-alone/trials.jsonl", "search/best.yaml", "answers/manifest.json"):
            assert (tmp_path / name / place).is_file()
        assert make_job(read_job(found[name]["best"])).cache.folder.endswith(f"{name}/answers")
    assert contents(tmp_path / "first") == before, "nothing of the second search went there"
    alone = tune(make_job({**asked, "workers": 1, "out": "alone"}), trials=2)
    for arm, row in alone["arms"].items():
        assert [t["accuracy"] for t in row["trials"]] == [t["accuracy"] for t in found["second"]["arms"][arm]["trials"]]
        assert [t["nll"] for t in row["trials"]] == pytest.approx(
            [t["nll"] for t in found["second"]["arms"][arm]["trials"]]
        )
