"""The job files in examples/: each opens, its methods exist, and those on digits take the first steps of every arm."""

from __future__ import annotations

import pytest

from conftest import REPOSITORY
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.dry_run import dry_run
from limbeck.compare.teacher import open_teacher
from limbeck.job import expand_students, make_job, read_job
from limbeck.methods import names

JOBS = {file.stem: file for file in sorted((REPOSITORY / "examples").glob("*.yaml"))}
ON_DIGITS = [name for name, file in JOBS.items() if read_job(str(file))["data"] == "digits"]
TEACHER_METHODS = {
    "ot_fusion", "rl_kd", "multi_teacher", "mtard", "agre_kd", "representation_consolidation", "knowledge_selection",
    "weighted_mutual", "tolerant_teacher", "born_again", "eskd", "early_stopped_teacher", "sftn", "prune_then_distill",
    "cross_fitting", "evolutionary", "ai_kd", "arow", "srst_awr", "faithful_distillation",
}  # fmt: skip
"""Methods about who teaches whom, each of which has an example."""


def read_jobs(name):
    """The job of a file, or those of its students."""
    job = read_job(str(JOBS[name]))
    several = expand_students(job)
    return [job] if several is None else list(several[0].values())


def read_methods(name):
    job = read_job(str(JOBS[name]))
    methods = job.get("methods") or [job.get("method", "hinton")]
    return [one if isinstance(one, str) else one["name"] for one in methods]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_file_opens(name):
    for job in map(make_job, read_jobs(name)):
        assert [one.name for one in job.methods or (job.method,)] == read_methods(name)
    assert f"examples/{name}.yaml" in JOBS[name].read_text(encoding="utf-8"), "the command that runs it"


def test_each_method_of_preparing_and_combining_teachers_has_a_job_file():
    assert set(names()) >= TEACHER_METHODS
    assert TEACHER_METHODS - {method for name in JOBS for method in read_methods(name)} == set()


@pytest.mark.integration
@pytest.mark.parametrize("name", ON_DIGITS)
def test_every_arm_of_a_job_file_takes_its_first_steps(name, tmp_path):
    job = make_job({**read_jobs(name)[0], "seeds": 1, "out": str(tmp_path / "run")})
    material = load_comparison_data(job)
    teacher, models = open_teacher(job, material)
    dry_run(job, material, teacher, models)
