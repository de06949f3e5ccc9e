"""Filters of generated texts: right answers, majorities of samples, JSON schemas, programs, lengths, duplicates."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple, Protocol, runtime_checkable

from limbeck.errors import ArgumentError, LimbeckError, callable_name
from limbeck.generated_texts.program import ProgramError, run_program
from limbeck.metrics.answers import extract_answer, majority_vote, normalize_answer
from limbeck.optional_imports import import_optional


class GeneratedText(NamedTuple):
    """A text that a teacher wrote.

    Attributes:
        id: The id of the prompt.
        sample: The number of the sample of this prompt, from 0.
        prompt: The prompt, or the messages of a chat.
        completion: What the teacher wrote.
        reference: The right answer; None if it is not known.
        stop_reason: ``stop`` at an end token, ``length`` if the text was cut off.
        token_ids: The new tokens; None if a server does not name them.
        logprob: The log-probability of the new tokens under the settings of sampling, in nats; None if not known.
    """

    id: str | int
    sample: int
    prompt: Any
    completion: str
    reference: str | None = None
    stop_reason: str = "stop"
    token_ids: tuple[int, ...] | None = None
    logprob: float | None = None


@runtime_checkable
class TextFilter(Protocol):
    """Keeps or refuses the texts of one prompt."""

    @property
    def name(self) -> str:
        """The name, as it is typed."""

    @property
    def needs_reference(self) -> bool:
        """Whether prompts need a right answer."""

    def refuse(self, texts: Sequence[GeneratedText]) -> Sequence[str | None]:
        """The reason to refuse each text of one prompt, in a few words; None to keep it."""


@dataclass(frozen=True)
class ExactAnswer:
    """Keeps texts whose final answer is the right one.

    The answer is found by `extract_answer`; a text that is the answer as a whole counts too. Without a `marker`, an
    answer that is no number is found in a box, behind ``####``, or as the whole text. Answers are compared after
    `normalize_answer`. A right answer that is a whole solution is read in the same way.

    Attributes:
        marker: What stands before the answer.
    """

    marker: str | None = None
    needs_reference = True

    @property
    def name(self) -> str:
        """The name, as it is typed."""
        return "exact_answer" + (f":{self.marker}" if self.marker else "")

    def refuse(self, texts: Sequence[GeneratedText]) -> list[str | None]:
        """Refuse texts with another answer, or none.

        A text without an answer is a wrong one where the right answer is no number: then its whole is compared.
        """
        return [self._refuse(text) for text in texts]

    def _refuse(self, text: GeneratedText) -> str | None:
        reference = text.reference or ""
        marked = self.marker is not None or "####" in reference or r"\boxed{" in reference
        right = normalize_answer((marked and extract_answer(reference, marker=self.marker)) or reference)
        answer = extract_answer(text.completion, marker=self.marker)
        written = (text.completion,) if answer is None else (answer, text.completion)
        if right in map(normalize_answer, written):
            return None
        compares_whole = self.marker is None and right and extract_answer(right) != right
        return "no answer" if answer is None and not compares_whole else "wrong answer"


@dataclass(frozen=True)
class Majority:
    """Keeps the texts whose answer is that of the majority of the samples of their prompt (self-consistency).

    It needs no right answers. All texts of a prompt are refused if no answer has the share, or two have equally many
    votes.

    Attributes:
        share: The smallest share of all samples that have the answer, above 0 and at most 1.
        marker: What stands before the answer.

    Source: Wang et al., Self-Consistency Improves Chain of Thought Reasoning in Language Models, 2022,
        arXiv:2203.11171.
    """

    share: float = 0.5
    marker: str | None = None
    needs_reference = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ArgumentError(
                f"majority: the share is above 0 and at most 1; got {self.share}.", argument="share", example="0.5"
            )

    @property
    def name(self) -> str:
        """The name, as it is typed."""
        return f"majority:{self.share:g}"

    def refuse(self, texts: Sequence[GeneratedText]) -> list[str | None]:
        """Refuse texts with another answer than the majority."""
        answers = [extract_answer(text.completion, marker=self.marker) for text in texts]
        vote = majority_vote(answers)
        if len(vote.answers) != 1 or vote.share < self.share:
            return ["no majority"] * len(texts)
        return [
            "no answer" if answer is None else None if normalize_answer(answer) in vote.answers else "minority"
            for answer in answers
        ]


@dataclass(frozen=True)
class MatchesSchema:
    """Keeps texts that are JSON and match a JSON Schema: types, required fields, enum, pattern, format.

    The text may be in a fenced block of Markdown. ``format: date`` is checked too.

    Attributes:
        schema: The schema.
        file: The file that it was read from, for the name.

    Raises:
        MissingPackageError: If jsonschema is not installed (extra ``schema``).
        LimbeckError: If the schema is not valid.
    """

    schema: Any
    file: str = ""
    needs_reference = False
    _validator: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        library = import_optional("jsonschema", extra="schema", purpose="The filter schema")
        kind = library.validators.validator_for(self.schema, default=library.Draft202012Validator)
        try:
            kind.check_schema(self.schema)
        except library.SchemaError as error:
            raise LimbeckError(f"The schema {self.file} is not valid: {error.message}.") from error
        object.__setattr__(self, "_validator", kind(self.schema, format_checker=kind.FORMAT_CHECKER))

    @property
    def name(self) -> str:
        """The name, as it is typed."""
        return f"schema:{self.file}" if self.file else "schema"

    def refuse(self, texts: Sequence[GeneratedText]) -> list[str | None]:
        """Refuse texts that are no JSON, or do not match. The reason names the field and the rule."""
        return [self._refuse(text.completion) for text in texts]

    def _refuse(self, completion: str) -> str | None:
        try:
            value = parse_json(completion)
        except ValueError:
            return "no JSON"
        try:
            errors = sorted(self._validator.iter_errors(value), key=lambda error: (error.json_path, error.validator))
        except (RecursionError, ArithmeticError):  # one text must not end the run
            return "nested too deeply, or a number is too large"
        if not errors:
            return None
        # The path ends at the object that lacks the field.
        missing = re.match(r"'([^']*)' is a required", errors[0].message)
        where = errors[0].json_path.removeprefix("$").removeprefix(".")
        return f"{missing[1] if missing else where or 'the text'}: {errors[0].validator}"


def parse_json(text: str) -> Any:
    r"""Read JSON that may stand in a fenced block of Markdown.

    Raises:
        ValueError: If it is no JSON, or has NaN or infinite numbers.

    Example:
        >>> parse_json('```json\n{"total": 3}\n```')
        {'total': 3}
    """
    fenced = re.search(r"```(?:json)?\s*\n(.*?)```", text, flags=re.DOTALL)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    def read_float(number: str) -> float:
        if math.isinf(value := float(number)):
            raise ValueError(f"{number} is too large")
        return value

    try:
        return json.loads(fenced[1] if fenced else text, parse_constant=refuse, parse_float=read_float)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


@dataclass(frozen=True)
class RightProgram:
    """Keeps texts that are programs with the right result (`run_program`).

    Attributes:
        seconds: The longest time of a program.
    """

    seconds: float = 1.0
    needs_reference = True

    @property
    def name(self) -> str:
        """The name, as it is typed."""
        return "program"

    def refuse(self, texts: Sequence[GeneratedText]) -> list[str | None]:
        """Refuse programs that fail, are not allowed, or have another result."""
        return [self._refuse(text) for text in texts]

    def _refuse(self, text: GeneratedText) -> str | None:
        try:
            value = run_program(text.completion.strip(), seconds=self.seconds)
        except ProgramError as error:
            return error.reason
        # Digits alone: str writes 0.00001 as 1e-05.
        written = format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)
        return None if normalize_answer(written) == normalize_answer(text.reference or "") else "wrong answer"


@dataclass(frozen=True)
class Length:
    """Keeps texts of some length, in new tokens; in characters, where a server does not name the tokens.

    Attributes:
        least: The smallest length.
        most: The largest length; None for no limit.
    """

    least: int = 1
    most: int | None = None
    needs_reference = False

    def __post_init__(self) -> None:
        if self.least < 0 or (self.most is not None and self.most < self.least):
            raise ArgumentError(
                f"length: the smallest is at least 0 and at most the largest; got {self.least} and {self.most}.",
                argument="length", example="1-200",
            )  # fmt: skip

    @property
    def name(self) -> str:
        """The name, as it is typed."""
        return f"length:{self.least}-{'' if self.most is None else self.most}"

    def refuse(self, texts: Sequence[GeneratedText]) -> list[str | None]:
        """Refuse texts that are too short or too long."""
        sizes = [len(text.completion if text.token_ids is None else text.token_ids) for text in texts]
        return [
            "too short" if size < self.least else "too long" if self.most is not None and size > self.most else None
            for size in sizes
        ]


@dataclass(frozen=True)
class Finished:
    """Keeps texts that the teacher ended itself, and refuses those that were cut off."""

    needs_reference = False

    @property
    def name(self) -> str:
        """The name, as it is typed."""
        return "finished"

    def refuse(self, texts: Sequence[GeneratedText]) -> list[str | None]:
        """Refuse texts that were cut off."""
        return [None if text.stop_reason == "stop" else "cut off" for text in texts]


@dataclass(frozen=True)
class Distinct:
    """Keeps the first of equal texts of one prompt; white space does not matter."""

    needs_reference = False

    @property
    def name(self) -> str:
        """The name, as it is typed."""
        return "duplicates"

    def refuse(self, texts: Sequence[GeneratedText]) -> list[str | None]:
        """Refuse repeated texts."""
        seen: set[str] = set()
        reasons: list[str | None] = []
        for text in texts:
            plain = " ".join(text.completion.split())
            reasons.append("duplicate" if plain in seen else None)
            seen.add(plain)
        return reasons


@dataclass(frozen=True)
class FunctionFilter:
    """A function of the user's as filter.

    Attributes:
        function: Maps a `GeneratedText` to True (keep), False (refuse), or the reason to refuse as a text.
        name: The name, as it is typed.
    """

    function: Callable[[GeneratedText], bool | str | None]
    name: str = ""
    needs_reference = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or callable_name(self.function))

    def refuse(self, texts: Sequence[GeneratedText]) -> list[str | None]:
        """Refuse the texts for which the function returns False or a reason.

        Raises:
            LimbeckError: If the function raises, or returns something else.
        """
        return [self._refuse(text) for text in texts]

    def _refuse(self, text: GeneratedText) -> str | None:
        where = f"The filter {self.name}, on sample {text.sample} of the prompt {text.id!r},"
        try:
            answer: Any = self.function(text)
        except Exception as error:  # a user's function can raise any exception
            raise LimbeckError(f"{where} failed: {type(error).__name__}: {error}.") from error
        if isinstance(answer, str) and answer:
            return answer
        if not isinstance(answer, bool):
            raise LimbeckError(f"{where} returned {answer!r}; it returns True, False, or the reason to refuse a text.")
        return None if answer else "refused"
