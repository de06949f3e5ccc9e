"""What a person asks for, typed."""

from limbeck.job.flag import with_flag
from limbeck.job.reading import job_text, make_job, read_job, with_settings
from limbeck.job.schema import ARMS, Budget, Job, Method, Model, TeacherModel

__all__ = [
    "ARMS",
    "Budget",
    "Job",
    "Method",
    "Model",
    "TeacherModel",
    "job_text",
    "make_job",
    "read_job",
    "with_flag",
    "with_settings",
]
