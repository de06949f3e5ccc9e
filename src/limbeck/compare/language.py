"""What a job of language models needs: its tokenizer, one vocabulary, lengths that fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import (
    Dataset,
    TokenDataset,
    TokenPairDataset,
    find_token_data,
    hash_tokenizer,
    open_tokenizer,
    reads_language,
)
from limbeck.doctor.other_tokenizer import describe_alignment, measure_alignment
from limbeck.errors import LimbeckError
from limbeck.job import Job, ModelSettings, RunLayout, TeacherSettings
from limbeck.job.routes import find_route_column
from limbeck.methods import method
from limbeck.models import TokenizersDifferError, UserFile, align_vocabularies, count_outputs, find_tokenizer
from limbeck.models.hf_folder import find_hf_config
from limbeck.models.hub import LibraryModel
from limbeck.optional_imports import import_optional
from limbeck.report.curves import cut_off_advice, read_written_texts
from limbeck.teachers import (
    AlignedTeacher,
    CrossTokenizerTeacher,
    Ensemble,
    ModelTeacher,
    RoutedTeacher,
    ServedTeacher,
    Teacher,
)

_PROBED, _PROBED_TOKENS = 16, 256  # texts of the data on which tokenizers are compared
_CHUNK = 1024  # windows whose tokens are counted at a time


def with_tokenizer(job: Job, options: Mapping[str, Any], task: str | None) -> dict[str, Any]:
    """The options of a job's data, with the tokenizer of its models if the texts are for language models.

    The teacher's tokenizer reads the texts, or that of a trained student if it is another one. Without either, one is
    trained on the texts, but only for a teacher that the job trains.

    Raises:
        LimbeckError: If a trained teacher has no tokenizer, would get a new one, or the student has another one.
    """
    options = dict(options)
    if UserFile.parse(str(options.get("name"))) is not None or not reads_language(options, task=task):
        return options
    teachers = list(job.teacher.parts.values())
    trained = next((part for part in teachers if part.has_weights), None)
    if options.get("tokenizer") is None:
        of_teacher = next(filter(None, map(_find_tokenizer, teachers)), None)
        place = _own_tokenizer(job, of_teacher) or of_teacher or _find_tokenizer(job.student)
        own_vocabulary = options.get("vocabulary") is not None and not compares_texts(job)
        if trained is not None and (own_vocabulary or place is None):
            raise LimbeckError(_no_tokenizer(trained, place))
        if place is not None and options.get("vocabulary") is None:
            options["tokenizer"] = place
    if any(map(_is_encoder_decoder, (*teachers, job.student))):
        options.setdefault("encoder_decoder", True)
    if options.get("tokenizer") is not None:
        _check_student(job, str(options["tokenizer"]))
    return options


def _no_tokenizer(teacher: TeacherSettings, place: str | None) -> str:
    if place is not None:
        return (
            f"data.vocabulary trains a new tokenizer, and the teacher {teacher.model} is trained with another one, "
            "whose tokens mean something else: leave data.vocabulary out."
        )
    return (
        f"The teacher {teacher.title} is trained, and there is no tokenizer beside it, so what its tokens mean is not "
        f"known. Name the folder of its tokenizer: --set {'teacher' if teacher.url else 'data'}.tokenizer=FOLDER, or "
        "hf:NAME."
    )


def _find_tokenizer(model: ModelSettings) -> str | None:
    """The folder or the name of a model's tokenizer; None if it has none."""
    if isinstance(model, TeacherSettings) and model.url is not None:
        return model.arguments.get("tokenizer")
    return find_tokenizer(model.model, pretrained=bool(model.arguments.get("pretrained", True)))


def _is_encoder_decoder(model: ModelSettings) -> bool:
    """Whether the configuration of a model of transformers says that it has an encoder and a decoder."""
    config = _read_config(model)
    return config is not None and bool(config.is_encoder_decoder)


def _read_config(model: ModelSettings) -> Any:
    """The configuration of a model of transformers, without the job's changes; None if there is none to read."""
    library = LibraryModel.parse(model.model)
    if library is None or library.prefix != "hf":
        return None
    hf = import_optional("transformers", extra="hf", purpose=str(library))
    if library.name in hf.CONFIG_MAPPING and not Path(library.name).exists():
        return hf.AutoConfig.for_model(library.name)
    try:
        return hf.AutoConfig.from_pretrained(library.name, trust_remote_code=False)
    except (OSError, ValueError):  # opening the model has the sentence for it
        return None


def _own_tokenizer(job: Job, other: str | None) -> str | None:
    """The place of a trained student's tokenizer, if its tokens or ids are others; None otherwise."""
    own = _find_tokenizer(job.student) if job.student.has_weights else None
    if own is None or other is None or own == other:
        return None
    return None if open_tokenizer(own).get_vocab() == open_tokenizer(other).get_vocab() else own


def align_teacher(
    job: Job, part: TeacherSettings, teacher: ModelTeacher, data: Dataset, student: nn.Module
) -> AlignedTeacher | CrossTokenizerTeacher | ModelTeacher:
    """The teacher in the vocabulary of the student and the data; the same teacher if there is nothing to align.

    For methods that compare texts it is a `CrossTokenizerTeacher`, also where the tokenizers are the same.

    Args:
        job: The job.
        part: The settings of this teacher.
        teacher: The teacher.
        data: Rows of tokens.
        student: The student, for the number of its outputs.

    Raises:
        LimbeckError: If the tokenizers cut texts into different tokens, and a method compares them token by token. The
            message names what works instead.
    """
    tokens = find_token_data(data)
    if tokens is not None and compares_texts(job):
        return _make_cross_tokenizer_teacher(part, teacher, open_own_tokenizer(part), data)
    sizes = [count_outputs(model) for model in (student, teacher.model)]
    if tokens is None or sizes[0] is None or sizes[1] is None:  # other modules are compared by their logits
        return teacher
    place = _find_tokenizer(part) if part.has_weights and job.teacher.check else None
    theirs = tokens.tokenizer if place is None else open_tokenizer(place)
    try:
        alignment = align_vocabularies(
            tokens.tokenizer, theirs, student_size=sizes[0], teacher_size=sizes[1], texts=_some_texts(tokens)
        )
    except LimbeckError as error:
        if job.student.has_weights or place is None:
            raise
        # A new student reads the teacher's tokens unless another tokenizer is typed.
        raise LimbeckError(
            f"The texts are read with data.tokenizer={tokens.tokenizer.name_or_path}, which is not the teacher's: "
            f"leave it out, and they are read with that of {place}. {error}"
        ) from error
    return teacher if alignment.is_identity else AlignedTeacher(teacher, alignment)


def has_no_answers(job: Job) -> bool:
    """Whether the teacher wrote the texts of a job, so that no student can learn anything without it."""
    return job.task is not None and bool(job.task.settings.get("written_by_teacher"))


def is_untrained(job: Job, arm: str) -> bool:
    """Whether an arm is the student before training: the student alone, where there are no answers."""
    return arm == "student alone" and has_no_answers(job)


def compares_texts(job: Job) -> bool:
    """Whether the methods of a job compare texts and not tokens, so that the teacher may have another tokenizer.

    Raises:
        LimbeckError: If one does and another does not: one teacher cannot give both.
    """
    across: dict[str, bool] = {}
    for settings in job.method_arms.values():
        with suppress(LimbeckError):  # an unknown method gets a sentence of its own
            if (one := method(settings.name)).has_teacher:
                across[settings.name] = one.card.across_tokenizers
    if len({*across.values()}) > 1:
        texts, tokens = (" and ".join(name for name, own in across.items() if own is kind) for kind in (True, False))
        raise LimbeckError(
            f"The methods of a job share a teacher: {texts} compare texts and {tokens} single tokens. Make a job for "
            "each."
        )
    return any(across.values())


def open_own_tokenizer(part: TeacherSettings) -> Any:
    """The tokenizer of a trained teacher; None if there is none beside it, or it is not trained."""
    place = _find_tokenizer(part) if part.has_weights else None
    return None if place is None else open_tokenizer(place)


def _make_cross_tokenizer_teacher(
    part: TeacherSettings, teacher: ModelTeacher, theirs: Any, data: Dataset
) -> CrossTokenizerTeacher:
    """The teacher with its own tokenizer, tried on some windows of the data.

    Raises:
        LimbeckError: If a tokenizer loses text, a window is too long for the teacher, or nothing is aligned.
    """
    tokens = find_token_data(data)
    if not isinstance(tokens, TokenDataset):
        raise LimbeckError("uld and alm teach causal language models, and these are pairs for an encoder-decoder.")
    other = CrossTokenizerTeacher(teacher, tokens.tokenizer, theirs or tokens.tokenizer)
    if not measure_alignment(other, data).aligned:
        raise LimbeckError(
            f"No token of the texts is aligned with a token of the teacher {part.model}: do the texts have more than "
            "one token each, and is its tokenizer the right one?"
        )
    return other


def align_served(teacher: ServedTeacher, data: Dataset, student: nn.Module) -> AlignedTeacher | ServedTeacher:
    """A served teacher in the vocabulary of the student and the data; the same teacher if there is nothing to align.

    Raises:
        LimbeckError: If the tokenizers cut texts into different tokens.
    """
    tokens, size = find_token_data(data), count_outputs(student)
    if tokens is None or size is None:
        return teacher
    try:
        alignment = align_vocabularies(
            tokens.tokenizer, teacher.tokenizer, student_size=size,
            teacher_size=teacher.count_classes(teacher.tokenizer), texts=_some_texts(tokens),
        )  # fmt: skip
    except TokenizersDifferError as error:
        # The methods that compare texts, which are recommended for other teachers, need all logits.
        raise TokenizersDifferError(
            f"{error.difference}. Is teacher.tokenizer the tokenizer of the model at the server? If it is, take a "
            "student with the same tokenizer, or let the teacher write texts and learn these: limbeck generate.",
            difference=error.difference,
        ) from error
    return teacher if alignment.is_identity else AlignedTeacher(teacher, alignment)


def average_teachers(job: Job, teachers: Sequence[Teacher]) -> Teacher:
    """The ensemble of a job's teachers, or the teacher that gives each example to one of them.

    Raises:
        LimbeckError: If they have different vocabularies, or two have the same route.
    """
    aligned = [teacher for teacher in teachers if isinstance(teacher, AlignedTeacher)]
    names, routes = list(job.teacher.parts), job.teacher.routes

    def make(*members: Teacher) -> Teacher:
        if routes is None:
            return Ensemble(*members, mean=job.teacher.mean, weights=job.teacher.weights, member_names=names)
        named = dict(zip(names, members, strict=True))
        return RoutedTeacher(named, find_route_column(routes, job.data), values=routes.values, default=routes.default)

    if any(isinstance(teacher, CrossTokenizerTeacher) for teacher in teachers):
        raise LimbeckError(
            "uld and alm have one teacher: the outputs of several with tokenizers of their own cannot be averaged."
        )
    if not aligned:
        return make(*teachers)
    if len({teacher.alignment.fingerprint for teacher in aligned}) > 1 or len(aligned) < len(teachers):
        raise LimbeckError(
            "The teachers have different vocabularies, so their outputs cannot be averaged. Use teachers of one family."
        )
    return AlignedTeacher(make(*(teacher.inner for teacher in aligned)), aligned[0].alignment)


def _some_texts(tokens: TokenDataset | TokenPairDataset) -> list[str]:
    """The beginnings of some texts."""
    starts = tokens.texts.starts[:-1][tokens.text_numbers[:_PROBED]].tolist()
    ids = [tokens.texts.ids[start : start + _PROBED_TOKENS].tolist() for start in starts]
    texts: list[str] = tokens.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return texts


def describe_vocabulary(teacher: Teacher, data: Dataset) -> str | None:
    """A sentence about the vocabularies of a teacher and its student; None if they are the same."""
    if isinstance(teacher, CrossTokenizerTeacher):
        return describe_alignment(teacher, measure_alignment(teacher, data))
    if not isinstance(teacher, AlignedTeacher):
        return None
    alignment = teacher.alignment
    sizes = f"the student has {alignment.student_size:,} outputs, the teacher {alignment.teacher_size:,}"
    notes = " ".join(alignment.notes)
    return f"Vocabulary: {alignment.shared:,} tokens are shared; {sizes}. {notes}".rstrip()


def _check_student(job: Job, place: str) -> None:
    """Refuse a trained student whose tokens are others."""
    own = _find_tokenizer(job.student) if job.student.has_weights else None
    if own is None or own == place:
        return
    theirs, ours = open_tokenizer(place), open_tokenizer(own)
    if hash_tokenizer(theirs) == hash_tokenizer(ours) or theirs.get_vocab() == ours.get_vocab():
        return
    raise LimbeckError(
        f"The student {job.student.model} has a tokenizer of {len(ours):,} tokens, and the texts are read with "
        f"{place}, of {len(theirs):,}: the same number is another token. Take a student of the same family, or a "
        "new one: --set student.pretrained=false."
    )


def check_positions(model: nn.Module, examples: Dataset, who: str) -> None:
    """Refuse windows that are longer than a model of transformers can read.

    Raises:
        LimbeckError: If they are; both numbers are named.
    """
    tokens, config = find_token_data(examples), find_hf_config(model)
    if tokens is None or config is None:
        return
    most = _context_length(config.to_dict())
    if most is not None and most < tokens.max_length:
        raise LimbeckError(
            f"{who} reads at most {most:,} tokens at a time, and the windows have {tokens.max_length:,}: type --set "
            f"data.max_length={most}."
        )


def read_limit(job: Job) -> int | None:
    """The most tokens that all models of transformers in a job can read; None if it is not known."""
    models = [(model, _read_config(model)) for model in (*job.teacher.parts.values(), job.student)]
    limits = [_context_length(config.to_dict() | model.arguments) for model, config in models if config is not None]
    return min((limit for limit in limits if limit is not None), default=None)


def _context_length(config: Mapping[str, Any]) -> int | None:
    """The most tokens that a model of transformers reads at a time; None if it states no limit."""
    most = config.get("max_position_embeddings") or config.get("n_positions")
    return most if isinstance(most, int) else None


def unigram_nll(train: Dataset, examples: Dataset, vocabulary: int) -> float:
    """The nats per token of a model that ignores the context: the token counts of the training data, plus one each."""
    counts = _count_labels(train, vocabulary) + 1.0
    held_out = _count_labels(examples, vocabulary)
    return float(-(held_out * (counts / counts.sum()).log()).sum() / held_out.sum())


def _count_labels(examples: Dataset, vocabulary: int = 0) -> Tensor:
    counts = torch.zeros(vocabulary, dtype=torch.float64)
    for index in torch.arange(len(examples)).split(_CHUNK):
        batch = examples.take(index)
        if batch.labels is not None:
            labels = batch.labels[batch.labels >= 0]
            found = labels.bincount(minlength=len(counts))
            counts = torch.cat([counts, counts.new_zeros(len(found) - len(counts))]) + found
    return counts


def describe_tokens(job: Job, train: Dataset) -> str | None:
    """A sentence about the tokens that a job reads, which are what it costs; None for other data."""
    if find_token_data(train) is None:
        return None
    tokens = int(_count_labels(train).sum())
    arms = [arm for arm in job.all_arms if arm != "teacher" and not is_untrained(job, arm)]
    # Of texts that are written, the given ones are not read.
    passes = {arm: job.seeds * job.budget_of(arm).epochs * (1 - _share_written(job, arm)) for arm in arms}
    read, taught = (
        round(tokens * sum(count for arm, count in passes.items() if every or arm in job.method_arms))
        for every in (True, False)
    )
    stored = job.cache is not None and bool(taught)
    training = tokens * sum(budget.epochs for budget in job.teacher_budgets.values())
    own = f", and its training reads {training:,}" if training else ""
    written = job.seeds * sum(_count_written(job, arm, len(train)) for arm in arms)
    asked = f"one pass, which is stored{f', and up to {written:,}' * bool(written)}" if stored else (
        f"{'up to ' * bool(written)}{taught + written:,}")  # fmt: skip
    new = f" Models write up to {written:,} of these tokens." if written else ""
    return (
        f"Cost: the answers of the data are {tokens:,} tokens. All students read {'up to ' * bool(written)}"
        f"{read + written:,}; the teacher answers {asked}{own}.{new}"
    )


def describe_cut_off(job: Job, out: Path | None) -> Iterator[str]:
    """A sentence for each arm with many written texts that were cut off."""
    if out is None:
        return
    for arm in job.method_arms:
        texts = read_written_texts(RunLayout(out).arm(arm))
        if texts is not None and (advice := cut_off_advice(texts)) is not None:
            yield f"{arm}: {advice}"


def _share_written(job: Job, arm: str) -> float:
    """The share of the texts of an arm that a model writes while it is trained."""
    settings = job.method_arms.get(arm)
    return 0.0 if settings is None else settings.written_share


def _count_written(job: Job, arm: str, prompts: int) -> int:
    """The largest number of tokens that a model writes in a run of an arm."""
    settings, share = job.method_arms.get(arm), _share_written(job, arm)
    most = {**method(settings.name).defaults, **settings.hyper}["max_new_tokens"] if settings and share else 0
    return round(job.budget_of(arm).epochs * prompts * share * most)
