"""Checks of the data and of the teacher: labels, inputs, accuracy, determinism, stored outputs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import IGNORED, LOGITS, Outputs
from limbeck.cache import CacheReader, is_cache
from limbeck.data import ShuffledLoader
from limbeck.doctor.context import CheckContext, Finding, draw_examples, fail, passed, warn
from limbeck.errors import LimbeckError
from limbeck.group_likelihoods import CrossTokenizerLogits, GroupLikelihoods
from limbeck.metrics.classes import is_misordered, misorder_message, renamed_accuracy
from limbeck.metrics.memoize import predicted_class
from limbeck.tasks import Classification
from limbeck.teachers import CachedTeacher, TeacherContext, predict_padded, verify_cache
from limbeck.teachers.chance import compute_chance, most_frequent_share

LABELS = "labels"


def check_labels(context: CheckContext) -> Finding:
    """Check that every label is a class, class names are unique, and every class has training examples."""
    labels, classes, names = context.train.labels, context.classes, context.class_names
    if labels is None and context.train.targets is not None:
        count = context.task.check(context.train, "training")
        return passed(LABELS, count, f"{count:,} training examples have a target.", context.task.describe())
    if labels is None:
        return warn(LABELS, None, "The data have no labels, so their order cannot be checked.")
    labeled = labels[labels != IGNORED]
    outside = labeled[(labeled < 0) | (labeled >= classes)]
    if len(outside):
        first = int(outside[0])
        return fail(
            LABELS, len(outside),
            f"Label {first} is not a class: the {classes} classes are 0 to {classes - 1}. Use {IGNORED} for examples "
            "without a label.", f"{len(outside)} of {len(labeled)}",
        )  # fmt: skip
    if names is not None and len(names) != len(set(names)):
        duplicate = next(name for name in names if names.count(name) > 1)
        return fail(LABELS, classes, f"Two classes have the name {duplicate!r}; names must be unique.")
    counts = torch.bincount(labeled.flatten(), minlength=classes)
    missing = [str(names[i]) if names else str(i) for i in range(classes) if counts[i] == 0]
    if missing:
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        return warn(
            LABELS, classes,
            f"{len(missing)} of {classes} classes have no training examples ({listed}). Are labels counted from 1, or "
            "is train_examples too small?", f"{classes} classes",
        )  # fmt: skip
    fewest = int(counts.min())
    return passed(
        LABELS, classes, f"Labels run from 0 to {classes - 1}; the rarest class has {fewest:,} examples.",
        f"{classes} classes",
    )  # fmt: skip


INPUTS = "inputs"

_INPUT_EXAMPLES = 256

_FAR, _WIDE, _NARROW = 5.0, 20.0, 1e-3


def check_inputs(context: CheckContext) -> Finding:
    """Check that the model inputs are finite, near 0, and not constant."""
    tensors = list(_floating(context.preprocess(draw_examples(context.train, _INPUT_EXAMPLES))))
    if not tensors:
        return passed(INPUTS, None, "The model inputs are integers, such as token ids.")
    numbers = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    if not bool(numbers.isfinite().all()):
        count = int((~numbers.isfinite()).sum())
        return fail(INPUTS, None, f"{count} of {len(numbers):,} input values are infinite or NaN.")
    mean, std = float(numbers.mean()), float(numbers.std())
    value, text = {"mean": mean, "std": std}, f"{mean + 0.0:.2g} ± {std:.2g}" if abs(mean) > 5e-3 else f"0 ± {std:.2g}"
    if abs(mean) > _FAR or std > _WIDE:
        hint = (
            "Inputs far from 0 slow down or prevent learning. Normalize them (data.mean and data.std, or preprocess)."
        )
    elif std < _NARROW:
        hint = "The inputs are almost constant. Are they divided twice?"
    else:
        return passed(INPUTS, value, "Mean and standard deviation of the model inputs.", text)
    return warn(INPUTS, value, hint, text)


def _floating(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        if inputs.is_floating_point():
            yield inputs
    elif isinstance(inputs, (Mapping, tuple, list)):
        for part in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from _floating(part)


ACCURACY = "teacher's accuracy"

_SECONDS, _EXAMPLES, _SIZE = 20.0, 2000, 100


def _check_score(context: CheckContext) -> Finding:
    """Compute the teacher's primary metric on development data, and compare it with a constant prediction."""
    score, examples = context.task.primary, context.development
    if not context.task.check(examples, "development"):
        return warn(ACCURACY, None, "Unknown: no development example has a target.")
    some = draw_examples(examples, _EXAMPLES)
    value = context.task.evaluate(context.teacher, some, preprocess=context.preprocess).measures[score.name]
    text = score.describe(value)
    if score.chance is not None and score.gain(value, score.chance) <= 0:
        return fail(
            ACCURACY, value,
            f"{text} on development data; always predicting the mean gives {score.format(score.chance)}. Was it "
            "trained on other inputs, or on targets in another unit (task.standardize=false)?", text,
        )  # fmt: skip
    return passed(ACCURACY, value, f"On {some.size:,} development examples.", text)


def check_accuracy(context: CheckContext) -> Finding:
    """Compare the teacher's accuracy on development data with chance, and with that of another class order."""
    if not context.trained:
        return warn(
            ACCURACY,
            None,
            "Unknown: the job trains the teacher first, and stops if it is then no better than chance.",
        )
    if not isinstance(context.task, Classification):
        return _check_score(context)
    labels = context.development.labels
    if labels is None or labels.ndim != 1 or not bool((labels != IGNORED).any()):
        return warn(ACCURACY, None, "Unknown: no development example has a single label.")
    guesses, truth = _guess(context)
    accuracy, most = float((guesses == truth).double().mean()), most_frequent_share(truth)
    chance = compute_chance(context.classes, len(truth), most_frequent=most)
    text = f"{100 * accuracy:.1f} %"
    beside = f"on {len(truth):,} development examples; chance gives {100 * chance.share:.1f} %, "
    beside += f"the most frequent class {100 * most:.1f} %."
    renamed, order = renamed_accuracy(guesses, truth, context.classes)
    if is_misordered(accuracy, renamed, truth, chance.reach):
        return fail(
            ACCURACY, accuracy,
            f"{text} {beside} With its classes in another order it would be {100 * renamed:.1f} %, so its label order "
            f"is not that of the data ({misorder_message(order, context.class_names)}).", text,
        )  # fmt: skip
    if accuracy <= chance.reach and accuracy < 1.0:
        return fail(
            ACCURACY,
            accuracy,
            f"{text} {beside} Was it trained with another input normalization or other labels?",
            text,
        )
    return passed(ACCURACY, accuracy, f"Right {beside}", text)


def _guess(context: CheckContext) -> tuple[Tensor, Tensor]:
    """The teacher's classes and the labels, for as many examples as the time allows."""
    count = min(_EXAMPLES, len(context.development))
    part = ShuffledLoader(context.development, batch_size=_SIZE, shuffle=True)
    guessed, labeled = list[Tensor](), list[Tensor]()
    until = time.perf_counter() + _SECONDS
    prepared = context.teacher.open(TeacherContext(device=context.device, preprocess=context.preprocess))
    with torch.no_grad(), prepared as get_outputs, context.fabric.autocast():
        for batch in part.batches(0, 0):
            if sum(map(len, guessed)) >= count or (guessed and time.perf_counter() > until) or batch.labels is None:
                break
            guessed.append(predicted_class(get_outputs(batch.to(context.device))[LOGITS]).cpu())
            labeled.append(batch.labels)
    guesses, labels = torch.cat(guessed), torch.cat(labeled)
    return guesses[labels != IGNORED], labels[labels != IGNORED]


STEADY, UNTOUCHED = "teacher's outputs", "teacher unchanged"

_DETERMINISM_EXAMPLES, _DETERMINISM_TEXTS = 64, 4


def check_deterministic(context: CheckContext) -> Finding:
    """Check that the teacher's outputs for an example do not depend on chance or on the rest of the batch."""
    if context.teacher.capabilities.scores_labels:
        return passed(
            STEADY, None, "The server gave the same texts the same scores in another order and beside others."
        )
    count = _DETERMINISM_TEXTS if context.is_language else _DETERMINISM_EXAMPLES
    batch = draw_examples(context.train, count).to(context.device)
    prepared = context.teacher.open(TeacherContext(device=context.device, preprocess=context.preprocess))
    half = torch.arange(max(batch.size // 2, 1), device=context.device)
    # Padding has outputs, which mean nothing.
    counts = batch.mask[half] if context.is_language and batch.mask is not None else slice(None)
    with torch.no_grad(), prepared as get_outputs, context.fabric.autocast():
        whole = _logits_of(get_outputs(batch))[: len(half)][counts].double()
        again = _logits_of(get_outputs(batch.rows(half)))[counts].double()
        padded = _logits_of(predict_padded(get_outputs, batch.rows(half), batch.size))[counts].double()
    if count := int(whole.isnan().flatten(1).any(1).sum()):
        sentence = (
            f"The teacher's outputs are NaN for {count} of {len(whole)} examples; check its forward() in eval mode."
        )
        return fail(STEADY, None, sentence, f"{count} NaN")
    agreement = float((whole.argmax(-1) == again.argmax(-1)).double().mean())
    apart = max(_apart(whole, again), _apart(whole, padded))
    if apart > 0.01:
        return fail(
            STEADY, agreement,
            f"The outputs for the same examples in two batches differ by up to {100 * apart:.2g} % of their spread: in "
            "eval mode the teacher still draws random numbers or normalizes over the "
            "batch.", f"{100 * agreement:.0f} % agree",
        )  # fmt: skip
    return passed(
        STEADY, agreement, "The outputs for the same examples in two batches are the same.", f"{100 * agreement:.0f} %"
    )


def _logits_of(outputs: Outputs) -> Tensor:
    """The logits; of a teacher with another tokenizer the likelihoods of groups, which are by position as well."""
    partial = outputs.partial.get(LOGITS)
    own = partial.likelihoods if isinstance(partial, CrossTokenizerLogits) else partial
    return own.log_likelihood.unsqueeze(-1) if isinstance(own, GroupLikelihoods) else outputs[LOGITS]


def _apart(one: Tensor, other: Tensor) -> float:
    spread = float(one[one.isfinite()].std()) if one.isfinite().sum() > 1 else 1.0
    return float((one - other).nan_to_num(0.0).abs().max()) / max(spread, 1e-9)


def hash_state(networks: Mapping[str, nn.Module]) -> dict[str, str]:
    """Hash every parameter and buffer of the networks, also buffers that are not saved."""
    hashes = {}
    for name, network in networks.items():
        for kind, tensors in (("weight", network.named_parameters()), ("buffer", network.named_buffers())):
            for inner, tensor in tensors:
                flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                hashes[f"{kind} {name}.{inner}"] = hashlib.sha256(flat.numpy().data).hexdigest()
    return hashes


def check_teacher_unchanged(context: CheckContext, before: Mapping[str, str], students: list[nn.Module]) -> Finding:
    """Check after the steps of all arms that the teacher has no gradient, is unchanged, and shares no parameters.

    Args:
        context: The opened job.
        before: The hashes of the teacher before the steps.
        students: The models that were trained.
    """
    inside = [parameter for network in context.networks.values() for parameter in network.parameters()]
    learning = {p.untyped_storage().data_ptr() for student in students for p in student.parameters() if p.numel()}
    shared = [p for p in inside if p.numel() and p.untyped_storage().data_ptr() in learning]
    if shared:
        return fail(
            UNTOUCHED, len(shared),
            f"{len(shared)} parameters belong to both teacher and student, so the teacher would be trained too. Build "
            "each with its own layers.", f"{len(shared)} shared",
        )  # fmt: skip
    graded = sum(parameter.grad is not None for parameter in inside)
    if graded:
        return fail(UNTOUCHED, graded, f"{graded} parameters of the teacher got a gradient.", f"{graded} graded")
    after = hash_state(context.networks)
    moved = [name for name, value in after.items() if before.get(name) != value]
    if moved:
        listed = ", ".join(moved[:3]) + (", ..." if len(moved) > 3 else "")
        return fail(
            UNTOUCHED, len(moved),
            f"Calling the teacher changes it: {listed}. Its forward() must not write to weights or buffers in eval "
            "mode, or its outputs depend on earlier calls.", f"{len(moved)} changed",
        )  # fmt: skip
    return passed(
        UNTOUCHED, 0, f"Its {len(inside)} parameters get no gradient, and its weights and buffers do not change.",
        "0 changed",
    )  # fmt: skip


STORED_OUTPUTS = "cached outputs"

_SAMPLE = 128


def check_stored_outputs(context: CheckContext) -> Finding | None:
    """Compare cached outputs, drawn at random, with the teacher's; None for a job without a cache.

    Of several teachers with a cache each the worst finding is shown, and the others behind it.
    """
    if context.stored is None:
        return None
    caches, loader = context.stored
    findings = [_check_cache(cached, loader, context) for cached in caches]
    if len(findings) == 1:
        return findings[0]
    worst = max(findings, key=lambda one: _STATES.index(one.state))
    lines = [f"{cached.where}: {one.sentence}" for cached, one in zip(caches, findings, strict=True)]
    first = lines.pop(findings.index(worst))
    return worst._replace(sentence=first, details=(*worst.details, *lines))


_STATES = ("ok", "look", "crash", "wrong")


def _check_cache(cached: CachedTeacher, loader: Any, context: CheckContext) -> Finding:
    if not is_cache(cached.where):
        return passed(STORED_OUTPUTS, None, f"There is no cache in {cached.where} yet; the job creates it.")
    if not context.trained:
        return warn(
            STORED_OUTPUTS,
            None,
            f"There is a cache in {cached.where}, but the teacher is not trained yet, so they cannot be compared.",
        )
    try:
        cached.check(loader, context.preprocess)  # raises if the cache belongs to another job
        missing = _count_missing(cached, context)
        if missing:
            return warn(
                STORED_OUTPUTS, missing,
                f"{missing:,} outputs are not in {cached.where} yet, so none were compared. `limbeck cache build` "
                "computes them now, the job computes them during training.", f"{missing:,} missing",
            )  # fmt: skip
        return _compare_cached(cached, loader, context)
    except LimbeckError as error:
        return fail(STORED_OUTPUTS, None, str(error))


def _compare_cached(cached: CachedTeacher, loader: Any, context: CheckContext) -> Finding:
    with context.fabric.autocast():
        again = verify_cache(
            cached,
            loader,
            preprocess=context.preprocess,
            sample=_SAMPLE,
            views=range(context.views),
            device=context.device,
        )
    text = f"{100 * again.identical:.0f} % identical"
    if not again.same:
        return fail(
            STORED_OUTPUTS, again.identical,
            f"Of {again.answers} outputs {text} ({again.distance_text}): the teacher, the device or a library has "
            f"changed since they were stored. Delete {cached.where} and build it again.", text,
        )  # fmt: skip
    return passed(
        STORED_OUTPUTS, again.identical, f"{again.answers} of them were computed again: {again.distance_text}.", text
    )


def _count_missing(cached: CachedTeacher, context: CheckContext) -> int:
    store, ids = CacheReader(cached.where), context.train.ids.numpy()
    views = range(context.views) if store.manifest.origin.views is not None else (-1,)
    return sum(int((store.rows(ids, view) < 0).sum()) for view in views)
