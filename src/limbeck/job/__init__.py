"""What a person asks for, typed."""

from limbeck.job.advice import Advice, advise, interval_of, rivals, suggestions_of
from limbeck.job.also import ALSO
from limbeck.job.budget import ArmBudget, Budget
from limbeck.job.effort import own_budgets, steps_said
from limbeck.job.flag import with_flag
from limbeck.job.naming import arm_folder, plain_name, shared_path
from limbeck.job.opening_code import one_line, opening_code, within_width
from limbeck.job.parts import learnt_and_held, stream
from limbeck.job.paths import absolute
from limbeck.job.places import without_places
from limbeck.job.reading import (
    job_text,
    make_job,
    read_job,
    read_run_job,
    run_job_texts,
    search_job_texts,
    with_settings,
)
from limbeck.job.result import own_metrics, size_notes
from limbeck.job.schema import ARMS, SHALLOW, Cache, Job, Method, Model, TeacherModel
from limbeck.job.search import ArmSearch, Search, keep_search, read_search, used_settings

__all__ = [
    "ALSO",
    "ARMS",
    "SHALLOW",
    "Advice",
    "ArmBudget",
    "ArmSearch",
    "Budget",
    "Cache",
    "Job",
    "Method",
    "Model",
    "Search",
    "TeacherModel",
    "absolute",
    "advise",
    "arm_folder",
    "interval_of",
    "job_text",
    "keep_search",
    "learnt_and_held",
    "make_job",
    "one_line",
    "opening_code",
    "own_budgets",
    "own_metrics",
    "plain_name",
    "read_job",
    "read_run_job",
    "read_search",
    "rivals",
    "run_job_texts",
    "search_job_texts",
    "shared_path",
    "size_notes",
    "steps_said",
    "stream",
    "suggestions_of",
    "used_settings",
    "with_flag",
    "with_settings",
    "within_width",
    "without_places",
]
