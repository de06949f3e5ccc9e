"""The task language modeling: the next token at each position of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from limbeck.batch import IGNORED, Batch, Inputs
from limbeck.data import Dataset, TokenDataset, TokenPairDataset, find_token_data, hash_tokenizer
from limbeck.data.tokenizer import labels_are_inputs
from limbeck.errors import DataError, LimbeckError
from limbeck.functional import cross_entropy, kl_divergence, label_smoothing
from limbeck.losses import Loss
from limbeck.metrics.classification import evaluate
from limbeck.metrics.language import COLUMNS, LANGUAGE_METRICS, TextSums, TextSumsState, positions_that_count
from limbeck.metrics.metric import linear_scores
from limbeck.metrics.partial_teacher import BOUNDS
from limbeck.metrics.predictions import as_batches, find_loader, open_token_logits
from limbeck.tasks.task import Evaluation, EvaluationState, Score, Task
from limbeck.tasks.text_samples import write_samples
from limbeck.teachers import has_other_tokenizer

_ROWS = 256  # rows of tokens that are read at a time
_FIDELITY = Score(
    "kl_to_teacher", "nats per token of KL divergence from the teacher", higher_is_better=False, diverged=100.0,
    countable=True, examples="prompts",
)  # fmt: skip


@final
@dataclass(frozen=True)
class LanguageModeling(Task):
    """The next token at each position: ``Batch.labels`` are shifted already, and -100 means no label.

    The loss is the cross-entropy, the default loss to the teacher the KL divergence at each position that counts.

    The primary metric is `nll`, the mean negative log-likelihood in nats per token, for four reasons. It is proper:
    only the true distribution has the lowest value. It is defined for every text, without a teacher and without
    sampling, so that all arms and controls are judged alike. It is a ratio of sums over texts, so an interval over
    texts is exact to first order. And differences mean the same at every level, which is not so for the perplexity, its
    exponential. It does not tell whether generated text is good: students trained on their own text can have a
    worse `nll` and better answers, so look at the answers on the report page as well.

    Texts are the examples: what is stored, and what a verdict resamples, are sums for each text. Tokens of
    one text depend on each other, and an interval over tokens would be too narrow. Logits of all positions are never
    held.

    Texts that the teacher wrote for prompts without answers (`written_by_teacher`) are no measure of what is right.
    There the primary metric is `kl_to_teacher`, the KL divergence of the student from the teacher in nats per token: 0
    for the teacher itself, and never below. The texts are samples of the teacher, so its mean is the divergence between
    the two distributions of whole texts, divided by the tokens.

    Attributes:
        vocabulary: The number of tokens; 0 before `fit`.
        tokenizer: SHA-256 of the tokenizer; empty before `fit`.
        written_by_teacher: Whether the teacher wrote the texts. Then models are judged by their divergence from it.

    Example:
        >>> task = LanguageModeling(vocabulary=2)
        >>> batch = Batch(torch.zeros(1, 3, 2), labels=torch.tensor([[0, 1, -100]]))
        >>> round(task.evaluate(torch.nn.Identity(), [batch]).measures["perplexity"], 4)
        2.0
    """

    vocabulary: int = 0
    tokenizer: str = ""
    written_by_teacher: bool = False

    name: ClassVar[str] = "language_modeling"
    title: ClassVar[str] = "Language modeling"
    primary: ClassVar[Score] = Score(
        "nll", "nats per token", higher_is_better=False, diverged=100.0, countable=True, examples="texts"
    )
    headline: ClassVar[tuple[str, str | None, str | None]] = ("nll", "perplexity", "kl_to_teacher")
    metrics = LANGUAGE_METRICS
    target_field: ClassVar[str] = "labels"
    output_title: ClassVar[str] = "tokens"
    row_title: ClassVar[str] = "windows"
    distance_title: ClassVar[str] = "KL divergence"
    asks_teacher: ClassVar[bool] = True
    # A teacher's distribution over a vocabulary is soft already; at 4 most of it would lie on tokens that never follow.
    temperature: ClassVar[float | None] = 1.0

    def __post_init__(self) -> None:
        if self.written_by_teacher:  # of this task alone; the class keeps the usual ones
            object.__setattr__(self, "primary", _FIDELITY)
            object.__setattr__(self, "headline", ("kl_to_teacher", "perplexity", "agreement"))
            object.__setattr__(self, "no_smoothing", "the prompts have no answers that could be smoothed")

    @property
    def outputs(self) -> int:
        """The number of tokens in the vocabulary."""
        if self.vocabulary < 1:
            raise LimbeckError(
                "This task is not fitted to data yet. Type LanguageModeling().fit(train), or "
                "LanguageModeling(vocabulary=50257)."
            )
        return self.vocabulary

    @property
    def output_names(self) -> tuple[str, ...]:
        """Nothing: the tokens of a vocabulary are not listed."""
        return ()

    def fit(self, train: Dataset, names: Sequence[str] | None = None) -> LanguageModeling:
        """Return the task with the size of the vocabulary and the hash of the tokenizer."""
        if names:
            raise DataError("The outputs of a language model are tokens, and have no other names: leave names out.")
        data = get_token_data(train, "training")
        vocabulary = max(len(data.tokenizer), int(data.texts.ids.max()) + 1)
        return replace(self, vocabulary=vocabulary, tokenizer=hash_tokenizer(data.tokenizer))

    def without_teacher(self) -> LanguageModeling:
        """The task where there is no teacher to compare with, as in an export: models are judged by `nll`."""
        return replace(self, written_by_teacher=False)

    def check(self, examples: Dataset, part: str) -> int:
        """Check that the tokens are those of the vocabulary, and that labels are next tokens.

        Returns:
            The number of texts with a label.
        """
        data = get_token_data(examples, part)
        if self.tokenizer and hash_tokenizer(data.tokenizer) != self.tokenizer:
            raise DataError(
                f"The {part} data have another tokenizer than the training data, so the same number means another "
                "token. Tokenize both with one tokenizer."
            )
        largest = int(data.texts.ids.max())
        if largest >= self.outputs:
            raise DataError(f"Token {largest} of the {part} data is not in the vocabulary (0 to {self.outputs - 1}).")
        first = examples.take(torch.arange(min(_ROWS, len(examples))))
        if labels_are_inputs(first.labels, first.inputs):
            raise DataError(
                f"The labels of the {part} data equal the tokens at the same positions, so a model would learn to "
                "copy. Labels are the next tokens: shift them by one, once."
            )
        return len(self.stored_targets(examples))

    def stored_targets(self, examples: Dataset) -> Int[Tensor, "texts 3"]:
        """The number, the tokens and the bytes of each text with a label, sorted by number; -1 for unknown bytes."""
        counts: dict[int, list[float]] = {}
        for index in torch.arange(len(examples)).split(_ROWS):
            labels, texts, sizes = positions_that_count(examples.take(index), first=int(index[0]))
            counted = labels != IGNORED
            numbers, inverse = texts[counted].unique(return_inverse=True)
            tokens = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, inverse, counted[counted].double())
            total = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, inverse, sizes[counted].double())
            for number, *both in zip(numbers.tolist(), tokens.tolist(), total.tolist(), strict=True):
                before = counts.setdefault(number, [0.0, 0.0])
                counts[number] = [a + b for a, b in zip(before, both, strict=True)]
        table = torch.tensor([[number, *counts[number]] for number in sorted(counts)], dtype=torch.float64)
        return table.nan_to_num(-1.0).long().reshape(-1, 3)

    def supervised_loss(self) -> Loss:
        """The cross-entropy of the next token."""
        return Loss(cross_entropy)

    def distillation_loss(self, *, temperature: float = 1.0) -> Loss:
        """The KL divergence of each position at a temperature, times T²."""
        return Loss(kl_divergence, temperature=temperature)

    def smoothed_loss(self, smoothing: float) -> Loss:
        """The cross-entropy of smoothed labels."""
        return Loss(label_smoothing, smoothing=smoothing)

    def keep(self, logits: Tensor) -> Tensor:
        """Nothing can be stored of logits alone.

        Raises:
            LimbeckError: Always, with the way out.
        """
        raise LimbeckError(
            "The logits of a language model are not stored: they would need 4 bytes for each token of the vocabulary "
            "at each position. task.evaluate(model, data).outputs has the sums for each text."
        )

    def measure(self, outputs: Tensor, targets: Tensor | None, teacher: Tensor | None = None) -> dict[str, float]:
        """Compute all metrics from the sums for each text.

        Args:
            outputs: Stored sums, ``[texts, columns]``. They contain the comparison with the teacher, if there was one.
            targets: `stored_targets`, to check that the texts are the same; None for no check.
            teacher: Not needed.

        Raises:
            DataError: If the sums are of other texts than the targets.
        """
        sums = TextSums(_check_texts(outputs, targets))
        return measure_texts(sums)

    def scores(self, outputs: Tensor, targets: Tensor) -> Shaped[np.ndarray, " texts"]:
        """The linearized primary metric of each text: texts with more tokens deviate more."""
        return linear_text_scores(TextSums(_check_texts(outputs, targets)), self.primary.name)

    def metric_arguments(self, outputs: Tensor, targets: Tensor, teacher: Tensor | None) -> dict[str, Any]:
        """The sums of each text, by the names in `limbeck.metrics.language.COLUMNS`; ``outputs`` is the whole table."""
        return {"outputs": outputs, **dict(zip(COLUMNS, outputs.unbind(1), strict=True))}

    def example_outputs(self, targets: Int[Tensor, "texts 3"]) -> Float[Tensor, "texts columns"]:
        """Random sums with the counts of the targets."""
        tokens = targets[:, 1:2].double()
        return torch.cat([targets.double(), tokens * torch.rand(len(targets), len(COLUMNS) - 3)], 1)

    def open_state(self, teacher: Tensor | None = None) -> EvaluationState:
        """Start an evaluation that adds sums for each text. Stored sums of the teacher say nothing about a student."""
        return _Texts(self.primary.name)

    def evaluate(
        self,
        model: Any,
        data: Any,
        *,
        preprocess: Callable[[Batch], Inputs] | None = None,
        teacher: Any = None,
    ) -> Evaluation:
        """Evaluate a language model batch by batch, and compare it with a teacher that answers the same batches.

        Args:
            model: A module or a teacher. Of a `ServedTeacher` that lists some tokens, there is what it tells: the
                likelihood of each label, and whether it is the most likely token.
            data: Batches, a `Dataset` or a `Loader`, with labels.
            preprocess: Maps a batch to the inputs of the model.
            teacher: The teacher itself: a module, or a teacher with or without a cache. If only some of its logits are
                stored, there are bounds (``kl_at_least``, ``acceptance_at_most``) in place of what is not known.
                Stored sums are ignored.

        Raises:
            DataError: If there is no token that counts, or shapes do not match.
            LimbeckError: If logits are NaN, or the vocabularies differ.
        """
        state, loader = _Texts(self.primary.name), find_loader(data)
        with ExitStack() as stack:
            how: dict[str, Any] = {"partial": has_other_tokenizer(model), "labels": True, "loader": loader}
            logits = stack.enter_context(open_token_logits(model, preprocess=preprocess, **how))
            answer = None
            if teacher is not None and not isinstance(teacher, Tensor):
                answer = stack.enter_context(
                    open_token_logits(teacher, preprocess=preprocess, partial=True, loader=loader)
                )
            for batch in as_batches(data if loader is None else loader, model):
                state.add(logits(batch), batch, None if answer is None else answer(batch))
        return state.compute()

    def sample_texts(
        self,
        model: Any,
        examples: Dataset,
        *,
        preprocess: Callable[[Batch], Inputs] | None = None,
        teacher: Any = None,
    ) -> dict[str, Any] | None:
        """Greedy answers to prompts of the data (`limbeck.tasks.text_samples.write_samples`)."""
        data = get_token_data(examples, "given")
        return write_samples(model, examples, data, teacher=teacher, preprocess=preprocess)

    def distance(self, logits: Tensor, reference: Tensor) -> float:
        """The mean KL divergence from the reference, in nats."""
        flat = (part.flatten(0, -2).double() for part in (logits, reference))
        return float(kl_divergence(*flat).mean())


class _Texts(EvaluationState):
    """An evaluation of language models: `TextSumsState`, and the metrics; `primary` is the metric of the scores."""

    def __init__(self, primary: str) -> None:
        self._primary = primary
        self._state = TextSumsState()

    def update(self, logits: Any, batch: Batch) -> None:
        """Add the tokens of one batch."""
        self._state.update(logits, batch)

    def add(self, logits: Any, batch: Batch, teacher: Any) -> None:
        """Add the tokens of one batch; the teacher's logits are None if there is no teacher."""
        self._state.update(logits, batch, teacher)

    def compute(self) -> Evaluation:
        """Compute all metrics and the score of each text."""
        sums = self._state.compute()
        known = sums.knows(self._primary)  # without a teacher, nothing is known that compares with it
        scores = linear_text_scores(sums, self._primary) if known else np.empty(0)
        return Evaluation(measure_texts(sums), scores, sums.table)


def measure_texts(sums: TextSums) -> dict[str, float]:
    """Compute the metrics of language models that need nothing which is missing."""
    there = {"labels": True, "teacher": sums.teacher is not None, "bytes": sums.bytes is not None}
    names = [
        name for name, one in LANGUAGE_METRICS.items()
        if all(there[need] for need in one.requires) and sums.knows(name)
        and not (name in BOUNDS and sums.knows(BOUNDS[name]))  # a bound of what is known says nothing
    ]  # fmt: skip
    return {name: one.value for name, one in evaluate(sums, names).items()}


def linear_text_scores(sums: TextSums, name: str) -> Shaped[np.ndarray, " texts"]:
    """The linearized score of each text in a metric that is a mean over all tokens (`Evaluation.scores`)."""
    total, tokens = sums.sums(name).numpy(), sums.labels.numpy()
    return linear_scores(float(total.sum() / tokens.sum()), total[:, None], tokens[:, None])


def _check_texts(outputs: Tensor, targets: Tensor | None) -> Tensor:
    if outputs.ndim != 2 or outputs.shape[1] != len(COLUMNS):
        raise DataError(
            f"Stored outputs of a language model are sums [texts, {len(COLUMNS)}]; got {list(outputs.shape)}."
        )
    if targets is not None and not torch.equal(outputs[:, :2].long(), targets[:, :2]):
        raise DataError("The stored sums are of other texts than the targets: evaluate the model again.")
    return outputs.double()


def get_token_data(examples: Dataset, part: str) -> TokenDataset | TokenPairDataset:
    """The texts as tokens from which the examples of a part were selected.

    Raises:
        DataError: If the examples are no texts as tokens.
    """
    if (data := find_token_data(examples)) is None:
        raise DataError(
            f"The {part} data are a {type(examples).__name__}; language modeling needs tokens: TokenDataset(texts, "
            "tokenizer=...)."
        )
    return data
