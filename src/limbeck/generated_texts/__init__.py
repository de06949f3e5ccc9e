"""Texts that a teacher writes: generation with provenance, filters, and a sandbox for programs."""

from limbeck.generated_texts.filtering import FILTERS, filter_texts, open_filters
from limbeck.generated_texts.filters import (
    Distinct,
    ExactAnswer,
    Finished,
    FunctionFilter,
    GeneratedText,
    Length,
    Majority,
    MatchesSchema,
    RightProgram,
    TextFilter,
    parse_json,
)
from limbeck.generated_texts.program import ProgramError, run_program
from limbeck.generated_texts.prompts import TextPrompt, read_prompts
from limbeck.generated_texts.text_file import (
    TextSummary,
    TextsWritten,
    TextWriter,
    Writing,
    generate_texts,
)

__all__ = [
    "FILTERS",
    "Distinct",
    "ExactAnswer",
    "Finished",
    "FunctionFilter",
    "GeneratedText",
    "Length",
    "Majority",
    "MatchesSchema",
    "ProgramError",
    "RightProgram",
    "TextFilter",
    "TextPrompt",
    "TextSummary",
    "TextWriter",
    "TextsWritten",
    "Writing",
    "filter_texts",
    "generate_texts",
    "open_filters",
    "parse_json",
    "read_prompts",
    "run_program",
]
