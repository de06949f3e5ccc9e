"""`RolloutLoader`: texts that a model of the run writes for the prompts of another loader."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from limbeck.batch import IGNORED, Batch
from limbeck.data.dataset import hash_columns
from limbeck.data.loader import Loader
from limbeck.data.loader_wrapper import LoaderWrapper
from limbeck.data.rollout_texts import Replay, RolloutText, TextBuffer, find_prompts, make_batch
from limbeck.data.torch_loader import as_loader
from limbeck.data.written_share import (
    DATA,
    REPLAY,
    Share,
    TextSources,
    check_written_share,
    describe_share,
)
from limbeck.errors import ArgumentError, DataError, LimbeckError, unknown_name_error
from limbeck.generation import GenerationConfig, generate
from limbeck.losses.distributed import all_gather_objects, rank
from limbeck.model_call import Adaptor
from limbeck.models import fingerprint
from limbeck.random_seeds import counter_uniform
from limbeck.tap import get_adaptor

_FIGURES = ("texts", "finished", "tokens", "seconds", "age", "rows")


@dataclass(frozen=True)
class Rollouts:
    """A description of rollouts: a function from a loader to its `RolloutLoader`, for ``Stage(loader=Rollouts())``.

    Attributes:
        share: The share of the batches whose texts are written by a model, from 0 to 1 (lambda of GKD); the other
            batches have the given texts. A `Schedule` changes it with the step, and an `AdaptiveShare` with the loss on
            validation texts.
        writer: The model that writes: the name of a model of the run, such as ``student``, or a module, such as the
            teacher's.
        generation: How the texts are written. Without `eos_token_id` they end with the tokenizer's end token.
        replay: Texts that are used again; None for new ones only.
        mixed_in: A second model with the same tokens, by name or as a module, such as the teacher's: each token is
            drawn from the mixture of both (`limbeck.generation.generate`).
        mixed_in_share: Its weight, above 0 and below 1.

    Raises:
        ArgumentError: If a value is out of range.

    Example:
        >>> Rollouts(share=0.5, generation=GenerationConfig(max_new_tokens=16)).describe()["share"]
        0.5
    """

    share: Share = 1.0
    writer: str | nn.Module = "student"
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    replay: Replay | None = None
    mixed_in: str | nn.Module | None = None
    mixed_in_share: float = 0.0

    def __post_init__(self) -> None:
        check_written_share("share", self.share)
        if self.mixed_in is not None and not 0 < self.mixed_in_share < 1:
            raise ArgumentError(
                f"mixed_in_share is above 0 and below 1; got {self.mixed_in_share!r}.", argument="mixed_in_share"
            )
        if not isinstance(self.writer, (str, nn.Module)):
            raise ArgumentError(
                f"writer is the name of a model of the run, or a module; got {type(self.writer).__name__}.",
                argument="writer",
            )

    def __call__(self, loader: Any) -> Loader:
        """The loader of texts for the prompts of another loader; the other one itself for a share of 0.

        Raises:
            DataError: If it is no loader.
        """
        if not isinstance(loader, (Loader, DataLoader)):
            raise DataError(
                f"Rollouts take a loader, and got a {type(loader).__name__}: pass ShuffledLoader(data, batch_size=16), "
                "or write Stage(loader=Rollouts(...)), which takes the loader of the run."
            )
        loader = as_loader(loader, batch_size=1)
        return RolloutLoader(loader, self) if self.share else loader

    def describe(self) -> dict[str, Any]:
        """A JSON form of the settings; a module is described by the hash of its weights."""
        mixed = {} if self.mixed_in is None else {"mixed_in": [_describe_model(self.mixed_in), self.mixed_in_share]}
        kept = self.replay
        replay = None if kept is None else {"capacity": kept.capacity, "share": describe_share(kept.share)}
        return {
            "rollouts": _describe_model(self.writer),
            **mixed,
            "share": describe_share(self.share),
            "generation": self.generation.describe(),
            "replay": replay,
        }


def _describe_model(model: str | nn.Module) -> str:
    return model if isinstance(model, str) else f"{type(model).__name__} {fingerprint(model)}"


@final
class RolloutLoader(LoaderWrapper):
    """Texts that a model writes for the prompts of another loader, while it learns.

    `batches` yields the batches of the other loader. `complete`, which a run calls when a batch is split over ranks and
    on its device, replaces their texts: a prompt is all tokens before the first label, and what the model writes is the
    label. Whether a batch has written, replayed or given texts is a pure function of (seed, epoch, number of the
    batch), and of the number of steps for a schedule, the same on all ranks; with an `AdaptiveShare`, it depends on the
    losses so far. The draws are a function of (id, epoch, seed) (`limbeck.generation.generate`). So a
    run that is resumed continues with the same bits.

    ``Batch.view`` is the epoch. ``Batch.extra`` of written texts is described at
    `limbeck.data.rollout_texts.make_batch`; that of given ones has ``written_by`` and the mask ``given`` too.

    Replayed texts have the ids of their own examples, and no columns of their own in ``Batch.extra``.

    Args:
        loader: A loader of token batches, such as that of a `TokenDataset` or `TokenPairDataset`.
        settings: The description.

    Raises:
        LimbeckError: If the loader depends on a model itself.

    Example:
        >>> from limbeck.data import ShuffledLoader, TokenDataset, train_tokenizer
        >>> tokenizer = train_tokenizer(["a b c d"], vocabulary=30)
        >>> rows = [{"prompt": "a b", "completion": " c"}, {"prompt": "b", "completion": " c d"}]
        >>> data = TokenDataset(rows, tokenizer=tokenizer, add_eos_token=False)
        >>> given = ShuffledLoader(data, batch_size=2)
        >>> loader = RolloutLoader(given, Rollouts(generation=GenerationConfig(max_new_tokens=3)))
        >>> loader.bind({"student": nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 30))})
        >>> batch = loader.complete(loader.peek())
        >>> bool((batch.labels != -100).sum(1).le(3).all()), batch.extra["written_by"]
        (True, 'student')
    """

    ragged = True
    fixed = False
    depends_on_model = True

    def __init__(self, loader: Loader, settings: Rollouts) -> None:
        super().__init__(loader)
        if loader.depends_on_model:
            raise LimbeckError(f"Rollouts need given prompts, and the batches of a {loader.type_name} are written too.")
        self.settings = settings
        self._models: Mapping[str, nn.Module] = {}
        replay = settings.replay
        self._buffer = TextBuffer(replay.capacity) if replay is not None and replay.capacity else None
        self.sources = TextSources(settings.share, None if replay is None else replay.share)
        self._number = 0
        self._figures = dict.fromkeys(_FIGURES, 0.0)
        self._vocabulary: tuple[Tensor | None, int, GenerationConfig] | None = None

    @property
    def labels(self) -> None:
        """None, as the labels are not known before the texts are written."""
        return None

    @property
    def fingerprint(self) -> str:
        """The hash of the prompts and of how texts are written."""
        return hash_columns(("prompts", self.loader.fingerprint), ("rollouts", self.settings.describe()))

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Take the models of the run; the writer is looked up for the first batch.

        Raises:
            UnknownNameError: If none of them has the name of the writer.
        """
        super().bind(models)
        for writer in (self.settings.writer, self.settings.mixed_in):
            if isinstance(writer, str) and writer not in models:
                raise unknown_name_error("model that writes", writer, models, argument="writer")
        self._models = models

    def set_steps(self, steps: int, *, accumulate: int = 1) -> None:
        """Take the number of steps, which schedules depend on.

        Raises:
            LimbeckError: If there is a schedule, and the number of batches of an epoch is not known.
        """
        super().set_steps(steps, accumulate=accumulate)
        self.sources.set_steps(steps, accumulate=accumulate, batches=len(self) if self.has_length else None)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of the other loader, with what `complete` needs to know."""
        for number, batch in enumerate(self.loader.batches(epoch, start), start):
            yield self._request(batch, epoch, number)

    def peek(self) -> Batch:
        """Return the next batch without moving on."""
        return super().peek() if self.replayable else self._request(self.loader.peek(), self._epoch, self._batch)

    def _request(self, batch: Batch, epoch: int, number: int) -> Batch:
        coins = counter_uniform(
            torch.tensor([number]), torch.tensor([epoch]), seed=self.seed, draws=2, stream="rollouts"
        )[0].tolist()  # fmt: skip
        source = self.sources.choose(coins, epoch=epoch, number=number)
        request = {"source": source, "row": torch.arange(batch.size), "rows": batch.size, "epoch": epoch,
                   "number": number}  # fmt: skip
        return batch._replace(extra={**batch.extra, "rollout": request})

    def complete(self, batch: Batch, *, used: bool = True) -> Batch:
        """Write the texts of a batch, or of this rank's part of one.

        Args:
            batch: The batch.
            used: Whether a step is taken on it. If not, its texts are not counted and not kept for replay.

        Raises:
            DataError: If a prompt is longer than the context of the writer, or given texts are wanted and there are
                none.
        """
        if "rollout" not in batch.extra:  # a batch of other data, such as one that a check takes from the dataset
            return batch if "written_by" in batch.extra else self._give(batch)
        request = batch.extra["rollout"]
        batch = batch._replace(extra={name: value for name, value in batch.extra.items() if name != "rollout"})
        if self.settings.share != 1 and not used:  # before the first step, where the first batch is a written one too
            self._check_answers(batch)
        if used and self.sources.measures(self._number):
            self.sources.measure(*self._find_writer(), batch_size=self.batch_size or 1)
        # A rank without rows of its own has the first row, of which nothing counts.
        padding = rank() >= request["rows"]
        result = (
            self._give(batch) if request["source"] == DATA else self._write(batch, request, used=used, padding=padding)
        )
        self._number += used
        if padding:
            masks = {name: torch.zeros_like(mask) for name, mask in result.extra["masks"].items()}
            result = result._replace(mask=masks["given"], extra={**result.extra, "masks": masks})
        return result

    def _check_answers(self, batch: Batch) -> Tensor:
        """The labels of given texts."""
        labels = batch.labels
        if labels is None or not bool((labels != IGNORED).any()):
            raise DataError(
                f"A batch of given texts is wanted, as share={self.settings.share}, and these prompts have no answers. "
                "Use share=1, or data with a prompt and a completion in each row."
            )
        return labels

    def _give(self, batch: Batch) -> Batch:
        """A batch with its given texts."""
        labels = self._check_answers(batch)
        mask = labels != IGNORED if batch.mask is None else batch.mask
        masks = {**batch.extra.get("masks", {}), "given": mask}
        return batch._replace(mask=mask, extra={**batch.extra, "masks": masks, "written_by": DATA})

    def _write(self, batch: Batch, request: Mapping[str, Any], *, used: bool, padding: bool) -> Batch:
        began = time.perf_counter()
        tokens, pad, config = self._find_vocabulary()
        rows = request["row"].cpu()
        buffer = self._buffer
        replayed = request["source"] == REPLAY and buffer is not None and len(buffer) > 0
        if replayed and buffer is not None:
            texts = buffer.draw(rows, number=request["number"], epoch=request["epoch"], seed=self.seed)
            own = batch._replace(extra={})
        else:
            texts, own = self._continue(batch, request, tokens, config), batch
            if buffer is not None and used:
                buffer.add(_gather_texts(texts, rows, padding=padding))
        writer = self.settings.writer
        name = writer if isinstance(writer, str) else type(writer).__name__
        result = make_batch(own, texts, pad=pad, number=self._number, written_by=name)
        if used and not padding:
            self._count(texts, fresh=not replayed, seconds=time.perf_counter() - began)
        return result

    def _continue(
        self, batch: Batch, request: Mapping[str, Any], tokens: Tensor | None, config: GenerationConfig
    ) -> list[RolloutText]:
        """New texts for the prompts of a batch."""
        prompts = find_prompts(batch)
        # Without ids, a row of an epoch is known by its place.
        ids = (request["row"] + (request["number"] << 20) if batch.id is None else batch.id).cpu()
        model, adaptor = self._find_writer()
        other = self.settings.mixed_in
        generation = generate(
            model, prompts, config, ids=ids, views=request["epoch"], seed=self.seed, tokens=tokens, adaptor=adaptor,
            mixed_in=self._models[other] if isinstance(other, str) else other,
            mixed_in_share=self.settings.mixed_in_share,
        )  # fmt: skip
        logprobs, finished = generation.logprobs.cpu(), generation.finished.tolist()
        return [
            RolloutText(prompt, text, row[: len(text)], ended, id, request["epoch"], self._number)
            for prompt, text, row, ended, id in zip(
                prompts, generation.texts, logprobs, finished, ids.tolist(), strict=True
            )
        ]  # fmt: skip

    def _find_writer(self) -> tuple[nn.Module, Adaptor | None]:
        writer = self.settings.writer
        if isinstance(writer, str):
            return self._models[writer], get_adaptor(self._models, writer)
        return writer, None

    @property
    def generation(self) -> GenerationConfig:
        """How texts are written, with the end token of the tokenizer if the settings have none."""
        return self._find_vocabulary()[2]

    def _find_vocabulary(self) -> tuple[Tensor | None, int, GenerationConfig]:
        """The tokens that may be written, the one for padding, and the settings with their end token."""
        if self._vocabulary is None:
            tokenizer = None if self.examples is None else self.examples.tokenizer
            config = self.settings.generation
            if tokenizer is None:
                self._vocabulary = None, 0, config
            else:
                ids = torch.tensor(sorted(set(tokenizer.get_vocab().values())))
                if not config.end_tokens and tokenizer.eos_token_id is not None:
                    config = GenerationConfig(**{**vars(config), "eos_token_id": int(tokenizer.eos_token_id)})
                self._vocabulary = ids, int(tokenizer.pad_token_id or 0), config
        return self._vocabulary

    def _count(self, texts: Sequence[RolloutText], *, fresh: bool, seconds: float) -> None:
        figures = self._figures
        figures["rows"] += len(texts)
        figures["age"] += sum(self._number - text.born for text in texts)
        figures["seconds"] += seconds
        if fresh:
            figures["texts"] += len(texts)
            figures["finished"] += sum(text.finished for text in texts)
            figures["tokens"] += sum(len(text.text) for text in texts)

    def pop_report(self, seconds: float, sum_over_ranks: Callable[[Sequence[Tensor]], list[float]]) -> dict[str, float]:
        """Figures of the texts since the last call.

        Returns:
            ``finished`` and ``cut_off``, numbers of new texts; ``tokens_per_second``, new tokens in the time in which
            they were written; ``time_share``, the share of all time that this took; ``mean_age``, in batches; and
            ``share``, that of the next batch, if it is no fixed number. Empty without written texts.
        """
        if self.settings.share == 0:
            return {}
        values = [torch.tensor(value, dtype=torch.float64) for value in (1.0, *self._figures.values())]
        ranks, texts, finished, tokens, spent, age, rows = sum_over_ranks(values)
        self._figures = dict.fromkeys(_FIGURES, 0.0)
        return {
            "finished": finished,
            "cut_off": texts - finished,
            "tokens_per_second": tokens / max(spent / ranks, 1e-9),
            "time_share": min(spent / ranks / max(seconds, 1e-9), 1.0),
            "mean_age": age / max(rows, 1.0),
            **self.sources.report(self._epoch, self._batch),
        }

    def state_dict(self) -> dict[str, Any]:
        """The position, the texts for replay, and the figures since the last report."""
        state = {**super().state_dict(), "number": self._number, "figures": dict(self._figures)}
        state |= self.sources.state_dict()
        return state if self._buffer is None else {**state, "replay": self._buffer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; a position alone keeps the texts for replay.

        Raises:
            LimbeckError: If the position is not valid for this loader.
        """
        super().load_state_dict(state)
        self._number = int(state.get("number", self._number))
        self._figures = {**self._figures, **state.get("figures", {})}
        self.sources.load_state_dict(state)
        if self._buffer is not None and "replay" in state:
            self._buffer.load_state_dict(state["replay"])


def _gather_texts(texts: list[RolloutText], rows: Tensor, *, padding: bool) -> list[RolloutText]:
    """The texts of all ranks in the order of the batch, so that all ranks keep the same."""
    own = [] if padding else list(zip(rows.tolist(), texts, strict=True))
    gathered = [pair for part in all_gather_objects(own) for pair in part]
    return [text for _, text in sorted(gathered, key=lambda pair: pair[0])]
