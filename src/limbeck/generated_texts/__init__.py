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
from limbeck.generated_texts.writer import DecodingOptions, ModelWriter, ServedWriter, open_writer

__all__ = [
    "FILTERS",
    "DecodingOptions",
    "Distinct",
    "ExactAnswer",
    "Finished",
    "FunctionFilter",
    "GeneratedText",
    "Length",
    "Majority",
    "MatchesSchema",
    "ModelWriter",
    "ProgramError",
    "RightProgram",
    "ServedWriter",
    "TextFilter",
    "TextPrompt",
    "TextSummary",
    "TextWriter",
    "TextsWritten",
    "Writing",
    "filter_texts",
    "generate_texts",
    "open_filters",
    "open_writer",
    "parse_json",
    "read_prompts",
    "run_program",
]
