"""A damaged picture of any part is found before the teacher trains, and by the doctor."""

from __future__ import annotations

import numpy as np
import pytest

from small_jobs import job_file, refused, small_job

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'limbeck[image]'")


@pytest.fixture
def folder(here):
    draw = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 8), ("test", 8)):
        for label in (0, 1):
            (here / "pictures" / part / str(label)).mkdir(parents=True)
            for number in range(count):
                pixels = (draw.random((8, 8)) * 100 + label * 100).astype(np.uint8)
                Image.fromarray(pixels).save(here / "pictures" / part / str(label) / f"{number}.png")
    return here / "pictures"


def test_a_whole_folder_runs_and_explains_what_was_decoded(here, limbeck, folder):
    teacher = {"model": "mlp", "hidden": [8], "check": False}
    small = small_job(folder, seeds=1, out="run", arms=["distilled"], budget={"epochs": 1}, teacher=teacher)
    ended = limbeck("distill", job_file(here / "job.yaml", small))
    assert ended.code == 0, ended.err
    assert "All 72 pictures can be decoded" in ended.out


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_damaged_images_are_detected_before_anything_is_paid_for(here, limbeck, folder, part):
    for number in (3, 5):
        victim = folder / part / "1" / f"{number}.png"
        victim.write_bytes(victim.read_bytes()[:-20])
    job = job_file(here / "job.yaml", small_job(folder, seeds=1, out="run"))
    refused(limbeck("distill", job), f"{part}/1/3.png", f"{part}/1/5.png", "2 of ")
    assert not (here / "run").exists()
    if part == "test":
        looked = limbeck("doctor", job, "--json")
        assert looked.code == 1
        assert any(one["state"] == "wrong" and "3.png" in one["sentence"] for one in looked.result["checks"])
