"""Jobs: what a user asks for, as typed settings."""

from limbeck.job.adversarial_settings import AdversarialSettings
from limbeck.job.budget import ArmBudget, Budget, describe_arm_budgets, format_steps
from limbeck.job.config_io import (
    job_text,
    make_job,
    read_job,
    read_run_job,
    run_job_texts,
    search_job_texts,
    with_settings,
)
from limbeck.job.opening_code import (
    export_options,
    join_statements,
    model_to_build,
    opening_code,
    trust_option,
    unit_statements,
    wrap_statements,
)
from limbeck.job.paths import hide_private_paths, with_absolute_paths
from limbeck.job.result import (
    Recommendation,
    list_custom_metrics,
    read_interval,
    read_size_notes,
    read_suggestions,
    recommend,
    sort_controls,
    split_rerun,
)
from limbeck.job.run_layout import ARMS, LIKE_FIRST_METHOD, ROUNDED, RunLayout, plain_name, shared_path
from limbeck.job.schema import Job
from limbeck.job.search import ArmSearch, Search, collect_settings, copy_search, read_search
from limbeck.job.settings import (
    SHALLOW,
    SHRINK,
    CacheSettings,
    MethodSettings,
    ModelSettings,
    TeacherSettings,
)
from limbeck.job.several_teachers import SEVERAL
from limbeck.job.splits import train_and_development, train_loader
from limbeck.job.student_settings import QuantizeSettings, StudentSettings, expand_students, read_shrink_flag
from limbeck.job.validation import EXTRA_METRICS, add_flag_hint

__all__ = [
    "ARMS",
    "EXTRA_METRICS",
    "LIKE_FIRST_METHOD",
    "ROUNDED",
    "SEVERAL",
    "SHALLOW",
    "SHRINK",
    "AdversarialSettings",
    "ArmBudget",
    "ArmSearch",
    "Budget",
    "CacheSettings",
    "Job",
    "MethodSettings",
    "ModelSettings",
    "QuantizeSettings",
    "Recommendation",
    "RunLayout",
    "Search",
    "StudentSettings",
    "TeacherSettings",
    "add_flag_hint",
    "collect_settings",
    "copy_search",
    "describe_arm_budgets",
    "expand_students",
    "export_options",
    "format_steps",
    "hide_private_paths",
    "job_text",
    "join_statements",
    "list_custom_metrics",
    "make_job",
    "model_to_build",
    "opening_code",
    "plain_name",
    "read_interval",
    "read_job",
    "read_run_job",
    "read_search",
    "read_shrink_flag",
    "read_size_notes",
    "read_suggestions",
    "recommend",
    "run_job_texts",
    "search_job_texts",
    "shared_path",
    "sort_controls",
    "split_rerun",
    "train_and_development",
    "train_loader",
    "trust_option",
    "unit_statements",
    "with_absolute_paths",
    "with_settings",
    "wrap_statements",
]
