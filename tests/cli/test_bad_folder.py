"""Commands on wrong folders lose nothing."""

from __future__ import annotations

import pytest

from small_jobs import Typed, blobs, contents, job_file, refused, small_job, typed_here


class TestFolder:
    def test_one_that_holds_a_run_is_left_alone(self, limbeck, done, job):
        run = done[0] / "run"
        before = contents(run)
        refused(limbeck("distill", job, "--out", run), "already holds", "limbeck resume")
        assert contents(run) == before

    def test_one_that_holds_anything_is_left_alone(self, limbeck, here, job):
        (here / "full").mkdir()
        (here / "full" / "note").write_text("mine")
        refused(limbeck("distill", job, "--out", "full"), "already holds")
        assert contents(here / "full") == {"note": b"mine"}

    def test_a_file(self, limbeck, here, job):
        (here / "file").write_text("mine")
        refused(limbeck("distill", job, "--out", "file"), "is a file")
        assert (here / "file").read_text() == "mine"

    def test_a_folder_inside_a_file(self, limbeck, here, job):
        (here / "file").write_text("mine")
        refused(limbeck("distill", job, "--out", "file/run"), "cannot be written")

    def test_one_that_may_not_be_written(self, limbeck, job, monkeypatch):
        from pathlib import Path

        # Whoever runs this may be root, who may write anywhere.
        def denied(path, *_, **__):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "mkdir", denied)
        refused(limbeck("distill", job, "--out", "locked/run"), "cannot be written", "Permission denied")

    def test_a_mistake_leaves_the_folder_free(self, limbeck, here, job):
        refused(limbeck("distill", job, "--student", "mpl", "--out", "run"))
        ended = limbeck("distill", job, "--out", "run", "--seeds", 1, "--set", "arms=[distilled]", "--json")
        assert ended.code == 0, ended.err

    def test_a_full_disk_is_no_traceback(self, limbeck, job, monkeypatch):
        from limbeck.compare import experiment

        def full(*_, **__):
            raise OSError(28, "No space left on device", "runs")

        monkeypatch.setattr(experiment, "append_outcome", full)
        refused(limbeck("distill", job, "--seeds", 1), "No space left")

    def test_one_that_cannot_be_resumed_explains_what_goes_on_instead(self, limbeck, done, here):
        run = done[0] / "run"
        refused(limbeck("resume", run / "student"), f"limbeck resume {run}")
        (here / "paper").mkdir()
        (here / "job.yaml").write_text("data: digits")  # a job beside its runs makes no run of the folder they are in
        refused(limbeck("resume", "paper"), "not the folder of a run")
        refused(limbeck("export", "paper", "--to", "onnx"), "not the folder of a run")
        (here / "paper" / "reproduction.json").write_text('{"scale": "quick"}')
        refused(limbeck("resume", "paper"), "limbeck papers PAPER --out paper")


class TestLoss:
    @pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.soak)])
    def test_one_that_is_no_number_stops_the_job(self, here, workers):
        blobs(here / "blobs.npz")
        job = small_job("blobs.npz", teacher={"model": "mlp", "hidden": [32], "train": {"epochs": 3, "lr": 0.01}})
        job_file(here / "job.yaml", {**job, "budget": {"optimizer": "sgd", "lr": 1e30, "warmup": 0}})
        ended = typed_here("distill", "job.yaml", "--set", f"workers={workers}", "--out", "run", cwd=here)
        refused(Typed(ended.code, "", ended.err), "nan", "learning rate")
        assert (here / "run" / "teacher" / "student" / "config.json").exists()


class TestResume:
    def test_nothing_there(self, limbeck):
        refused(limbeck("resume", "runs/none"), "runs/none")

    def test_no_run(self, limbeck, here):
        (here / "some").mkdir()
        refused(limbeck("resume", "some"), "no job.yaml")

    def test_a_run_made_in_python(self, limbeck, here):
        (here / "some").mkdir()
        (here / "some" / "run.json").write_text("{}")
        refused(limbeck("resume", "some"), "Python", "resume=True")

    def test_another_job(self, done, monkeypatch):
        import limbeck as lb
        from limbeck.errors import LimbeckError

        monkeypatch.chdir(done[0])
        before = contents(done[0] / "run")
        other = lb.make_job(small_job(done[0] / "blobs.npz", out="run", seeds=3))
        with pytest.raises(LimbeckError, match=r"another job.*seeds"):
            lb.run_job(other, resume=True)
        assert contents(done[0] / "run") == before
