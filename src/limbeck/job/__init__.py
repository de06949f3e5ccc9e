"""What a person asks for, typed."""

from limbeck.job.budget import ArmBudget, Budget
from limbeck.job.flag import with_flag
from limbeck.job.naming import plain_name
from limbeck.job.paths import absolute
from limbeck.job.reading import job_text, make_job, read_job, with_settings
from limbeck.job.schema import ARMS, SHALLOW, Cache, Job, Method, Model, TeacherModel

__all__ = [
    "ARMS",
    "SHALLOW",
    "ArmBudget",
    "Budget",
    "Cache",
    "Job",
    "Method",
    "Model",
    "TeacherModel",
    "absolute",
    "job_text",
    "make_job",
    "plain_name",
    "read_job",
    "with_flag",
    "with_settings",
]
