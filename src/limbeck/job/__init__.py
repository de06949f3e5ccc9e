"""Jobs: what a user asks for, as typed settings."""

from limbeck.job.budget import ArmBudget, Budget, format_steps, own_budgets
from limbeck.job.cli_hints import add_flag_hint
from limbeck.job.config_io import (
    job_text,
    make_job,
    read_job,
    read_run_job,
    run_job_texts,
    search_job_texts,
    with_settings,
)
from limbeck.job.opening_code import one_line, opening_code, within_width
from limbeck.job.paths import with_absolute_paths, without_places
from limbeck.job.recommendation import Recommendation, interval_of, recommend, rivals, suggestions_of
from limbeck.job.result import own_metrics, size_notes
from limbeck.job.run_layout import arm_folder, plain_name, shared_path
from limbeck.job.schema import ARMS, SHALLOW, CacheSettings, Job, MethodSettings, ModelSettings, TeacherSettings
from limbeck.job.search import ArmSearch, Search, keep_search, read_search, used_settings
from limbeck.job.splits import train_and_development, train_loader
from limbeck.job.validation import ALSO

__all__ = [
    "ALSO",
    "ARMS",
    "SHALLOW",
    "ArmBudget",
    "ArmSearch",
    "Budget",
    "CacheSettings",
    "Job",
    "MethodSettings",
    "ModelSettings",
    "Recommendation",
    "Search",
    "TeacherSettings",
    "add_flag_hint",
    "arm_folder",
    "format_steps",
    "interval_of",
    "job_text",
    "keep_search",
    "make_job",
    "one_line",
    "opening_code",
    "own_budgets",
    "own_metrics",
    "plain_name",
    "read_job",
    "read_run_job",
    "read_search",
    "recommend",
    "rivals",
    "run_job_texts",
    "search_job_texts",
    "shared_path",
    "size_notes",
    "suggestions_of",
    "train_and_development",
    "train_loader",
    "used_settings",
    "with_absolute_paths",
    "with_settings",
    "within_width",
    "without_places",
]
