"""Losses of other toolkits beside the same ones of limbeck, with every known difference as a formula and a sentence.

`tests/peers` compares values and gradients, and `make bench NAME=kernels` the time.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.functional import kl_divergence, logit_squared_error, state_squared_error
from limbeck.methods import method

Arguments = tuple[Tensor, ...]
"""Student, teacher, labels."""

T = 4.0


class PeerLoss(NamedTuple):
    """A loss of another toolkit, and the same of limbeck.

    Attributes:
        module: The module of the toolkit that must be importable.
        name: The name of the loss there.
        theirs: A function of the module that returns the loss as a function of student, teacher and labels.
        ours: The same with kernels of limbeck, as the mean that `Loss` takes.
        expect: Their value from ours and the arguments; the value itself where both are the same.
        difference: What is different, in a sentence; empty if nothing is.
        shape: The shape of the tensors in the benchmark, and `small` in the tests.
    """

    module: str
    name: str
    theirs: Callable[[Any], Callable[..., Tensor]]
    ours: Callable[..., Tensor]
    expect: Callable[..., Tensor] = lambda value, *_: value
    difference: str = ""
    shape: tuple[int, ...] = (256, 1000)
    small: tuple[int, ...] = (6, 5)

    @property
    def package(self) -> str:
        """The importable name of the toolkit."""
        return self.module.partition(".")[0]

    def load(self) -> Callable[..., Tensor]:
        """Import the toolkit, and make its loss.

        Raises:
            ImportError: If it is not installed.
        """
        return self.theirs(importlib.import_module(self.module))

    def draw(self, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32) -> Arguments:
        """Draw student, teacher and labels."""
        draw = torch.Generator().manual_seed(0)
        student, teacher = (2 * torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for _ in range(2))
        return student.requires_grad_(), teacher, torch.randint(shape[-1], shape[:1], generator=draw)


@functools.cache
def find_kernel(name: str, kernel: str) -> Callable[..., Tensor]:
    """The kernel of a method, from its card; found once, because a search would be part of each timed call."""
    return next(claim.kernel for claim in method(name).card.kernels if claim.name == kernel)


def _mean(name: str, kernel: str, **hyper: Any) -> Callable[..., Tensor]:
    def loss(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
        return find_kernel(name, kernel)(student, teacher, **hyper).mean()

    return loss


def _plain(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    return kl_divergence(student, teacher, temperature=T).mean()


def _entropy(teacher: Tensor) -> Tensor:
    log_p = (teacher / T).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).mean()


_AT = ("output", "layer")


def _torchdistill(loss: str, *, labels: bool = False, **settings: Any) -> Callable[[Any], Callable[..., Tensor]]:
    """A loss of torchdistill, which reads outputs from mappings of layers to inputs and outputs."""

    def make(module: Any) -> Callable[..., Tensor]:
        built = vars(module)[loss](**settings)

        def value(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
            sides = ({"layer": {"output": side}} for side in (student, teacher))
            result: Tensor = built(*sides, targets if labels else None)
            return result

        return value

    return make


_PLACES: dict[str, Any] = {
    f"{side}_module_{what}": value
    for side in ("student", "teacher")
    for what, value in {"path": "layer", "io": "output"}.items()
}
_OUTPUTS: dict[str, Any] = {"student_output_path": "layer", "teacher_output_path": "layer"}
_PAIR: dict[str, Any] = {"pair": {side: {"io": "output", "path": "layer"} for side in ("student", "teacher")}}
_MAPS: dict[str, Any] = {"shape": (32, 64, 16, 16), "small": (4, 3, 2, 4)}
_FEATURES: dict[str, Any] = {"shape": (256, 512), "small": (6, 5)}
_LOSSES = "torchdistill.losses.mid_level"

_SRD_PLACES: dict[str, Any] = {
    f"{side}_{what}_module_{key}": value
    for side in ("student", "teacher")
    for what in ("feature", "linear")
    for key, value in {"path": "layer", "io": "output"}.items()
}
_FSP_PAIR: dict[str, Any] = {
    "pair": {
        f"{side}_{place}": {"io": "output", "path": "layer"}
        for side in ("student", "teacher")
        for place in ("first", "second")
    }
}

Loss = Callable[..., Tensor]
"""Student, teacher, labels -> mean value."""


def _of_length_one(make: Callable[[Any], Loss]) -> Callable[[Any], Loss]:
    """The loss of features that are scaled to length 1 first."""
    return _after(functools.partial(nn.functional.normalize, dim=1), make)


def _standardized(make: Callable[[Any], Loss]) -> Callable[[Any], Loss]:
    """The loss of features that are normalized over the batch first."""
    return _after(_standardize, make)


def _after(change: Callable[[Tensor], Tensor], make: Callable[[Any], Loss]) -> Callable[[Any], Loss]:
    def changed(module: Any) -> Loss:
        loss = make(module)
        return lambda student, teacher, labels: loss(change(student), change(teacher), labels)

    return changed


def _standardize(features: Tensor) -> Tensor:
    return nn.functional.batch_norm(features, None, None, training=True, eps=1e-4)


def _similarities(features: Tensor, *, p: float) -> Tensor:
    return nn.functional.normalize(features @ features.T, p=p, dim=1)


def _neighbors_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """PKT with each example as its own neighbor, and the mean over pairs."""
    q, p = (
        (similarities / similarities.sum(1, keepdim=True)).log()
        for similarities in (
            (nn.functional.normalize(x, dim=1) @ nn.functional.normalize(x, dim=1).T + 1) / 2
            for x in (student, teacher)
        )
    )
    return (p.exp() * (p - q)).mean()


def _flow(maps: Tensor) -> Tensor:
    rows = maps.flatten(2)
    return rows @ rows.transpose(1, 2) / rows.shape[2]


def _flows(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    return find_kernel("fsp", "fsp_distance")(student, student, teacher, teacher).mean()


TORCHDISTILL = (
    PeerLoss(
        _LOSSES, "KDLoss, alpha=1e-9",
        _torchdistill("KDLoss", labels=True, temperature=T, alpha=1e-9, beta=1.0, **_PLACES), _plain,
    ),
    PeerLoss(
        _LOSSES, "KDLoss, alpha=0",
        _torchdistill("KDLoss", temperature=T, alpha=0.0, **_PLACES), _plain,
        lambda value, *_: value / T**2,
        "Without labels, or with alpha=0, it leaves out T^2 and beta: at T = 4 it is 16 times smaller.",
    ),
    PeerLoss(
        _LOSSES, "LogitStdKDLoss",
        _torchdistill("LogitStdKDLoss", temperature=T, alpha=0.0, eps=0.0, **_PLACES),
        lambda s, t, _: find_kernel("logit_standardization", "standardized_kl")(
            s, t, temperature=T * (s.shape[-1] / (s.shape[-1] - 1)) ** 0.5
        ).mean(),
        lambda value, s, *_: value / (T**2 * s.shape[-1] / (s.shape[-1] - 1)),
        "Its standard deviation divides by C - 1 and not by C, which is the same as another temperature, T times "
        "the root of C / (C - 1); and without labels it leaves out T^2.",
    ),
    PeerLoss(
        _LOSSES, "DISTLoss", _torchdistill("DISTLoss", tau=T, **_PLACES),
        lambda s, t, y: _mean("dist", "inter_class_distance", temperature=T)(s, t, y)
        + _mean("dist", "intra_class_distance", temperature=T)(s, t, y),
    ),
    PeerLoss(
        _LOSSES, "ATLoss, mode='paper'", _torchdistill("ATLoss", at_pairs=_PAIR, mode="paper"),
        _mean("attention_transfer", "attention_distance"),
        lambda value, s, *_: value * s[0, 0].numel(),
        "It does not divide by the number of positions, so the value is larger by that factor.", **_MAPS,
    ),
    PeerLoss(
        _LOSSES, "ATLoss, mode='code'", _torchdistill("ATLoss", at_pairs=_PAIR, mode="code"),
        _mean("attention_transfer", "attention_distance", squared=True), **_MAPS,
    ),
    PeerLoss(
        _LOSSES, "SPKDLoss", _torchdistill("SPKDLoss", reduction="batchmean", **_OUTPUTS),
        _mean("similarity_preserving", "similarity_squared_error"),
        lambda _, s, t, *__: (_similarities(s, p=1.0) - _similarities(t, p=1.0)).square().mean(),
        "It divides each row of similarities by the sum of its absolute values (normalize(x, 1) is p=1). The paper "
        "divides by the Euclidean length, which is ours.", **_FEATURES,
    ),
    PeerLoss(
        _LOSSES, "PKTLoss", _torchdistill("PKTLoss", eps=0.0, **_PLACES), _mean("pkt", "neighbor_kl"),
        lambda _, s, t, *__: _neighbors_kl(s, t),
        "It is the mean over pairs and not over examples, which is smaller by the size of the batch, and it counts "
        "each example as a neighbor of itself; the sums of the paper leave that out.", **_FEATURES,
    ),
    PeerLoss(
        _LOSSES, "FSPLoss", _torchdistill("FSPLoss", fsp_pairs=_FSP_PAIR), _flows,
        lambda _, s, t, *__: (_flow(s) - _flow(t)).norm(dim=1).sum() / len(s),
        "It is the sum of the Euclidean norms of the columns. The paper, and ours, take the squared norm of the "
        "matrix.", **_MAPS,
    ),
    PeerLoss(
        _LOSSES, "SRDLoss", _standardized(_torchdistill("SRDLoss", exponent=4.0, **_SRD_PLACES)),
        _mean("srd", "log_sum_error"),
        lambda value, s, t, *__: 2 * value + kl_divergence(_standardize(s), _standardize(t)).mean(),
        "It is twice the logarithm plus a KL divergence of logits at T = 1 in one loss; the features are normalized "
        "outside of it.", **_FEATURES,
    ),
    PeerLoss(
        _LOSSES, "SKDDirectionLoss, mode='paper'", _torchdistill("SKDDirectionLoss", mode="paper", **_PLACES),
        lambda s, t, _: find_kernel("skd", "gram_mahalanobis")(s, t, ridge=0.1 / s.shape[-1] ** 2),
        difference="It does not divide the Gram matrices by the number of classes C, as the authors' code and ours do. "
        "That is the same as a ridge smaller by C^2.", shape=(64, 100),
    ),
    PeerLoss(
        _LOSSES, "RKDLoss, distances",
        _torchdistill("RKDLoss", dist_factor=1.0, angle_factor=0.0, reduction="mean", **_OUTPUTS),
        _mean("rkd", "rkd_distance"), **_FEATURES,
    ),
    PeerLoss(
        _LOSSES, "RKDLoss, angles",
        _torchdistill("RKDLoss", dist_factor=0.0, angle_factor=1.0, reduction="mean", **_OUTPUTS),
        _mean("rkd", "rkd_angle"), shape=(64, 128),
    ),
    PeerLoss(
        _LOSSES, "CCKDLoss",
        _of_length_one(_torchdistill(
            "CCKDLoss", kernel_config={"type": "gaussian", "gamma": 0.4, "max_p": 2}, reduction="batchmean",
            student_linear_path="layer", teacher_linear_path="layer",
        )),
        _mean("correlation_congruence", "correlation_squared_error"),
        lambda value, s, *_: value.sqrt() / len(s),
        "It takes the norm and not its square, divides by the square of the batch, and does not scale the features to "
        "length 1, as its paper does: the comparison passes features of length 1.", **_FEATURES,
    ),
)  # fmt: skip


def _textbrewer(loss: str, **settings: Any) -> Callable[[Any], Callable[..., Tensor]]:
    def make(module: Any) -> Callable[..., Tensor]:
        def value(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
            result: Tensor = vars(module)[loss](student, teacher, **settings)
            return result

        return value

    return make


def _squared(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    return logit_squared_error(student, teacher, centered=False).mean()


def _states(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    return state_squared_error(student, teacher).mean()


_TOKENS: dict[str, Any] = {"shape": (8, 64, 256), "small": (3, 4, 5)}

TEXTBREWER = (
    PeerLoss(
        "textbrewer.losses", "kd_ce_loss", _textbrewer("kd_ce_loss", temperature=T), _plain,
        lambda value, _, teacher, *__: value / T**2 + _entropy(teacher),
        "It is a cross-entropy, larger by the teacher's entropy, which has no gradient; and it leaves out T^2, so its "
        "gradient is 16 times smaller at T = 4.",
    ),
    PeerLoss(
        "textbrewer.losses", "kd_mse_loss", _textbrewer("kd_mse_loss", temperature=T), _squared,
        lambda value, s, *_: value * 2 / T**2,
        "It is the mean squared error of logits divided by T. Ours is half the squared error, as in Hinton et al.",
    ),
    PeerLoss("textbrewer.losses", "hid_mse_loss", _textbrewer("hid_mse_loss"), _states, **_TOKENS),
    PeerLoss(
        "textbrewer.losses", "pkd_loss", _textbrewer("pkd_loss"),
        _mean("internal_representations", "class_token_distance"),
        lambda value, *_: 2 * value,
        "It is the squared distance of two features of length 1, which is twice 1 minus their cosine.", **_TOKENS,
    ),
    PeerLoss(
        "textbrewer.losses", "cos_loss", _textbrewer("cos_loss"), _mean("kiddin", "direction_error"),
        lambda value, *_: value / 2,
        "It is 1 minus the cosine; ours is the squared distance of features of length 1, twice as large.", **_FEATURES,
    ),
)  # fmt: skip


def _model_optimizer(**settings: Any) -> Callable[[Any], Callable[..., Tensor]]:
    def make(module: Any) -> Callable[..., Tensor]:
        built = module.LogitsDistillationLoss(temperature=T, **settings)
        return lambda student, teacher, _: built(student, teacher)

    return make


MODEL_OPTIMIZER = (
    PeerLoss(
        "modelopt.torch.distill", "LogitsDistillationLoss, reduction='batchmean'",
        _model_optimizer(reduction="batchmean"), _plain,
    ),
    PeerLoss(
        "modelopt.torch.distill", "LogitsDistillationLoss", _model_optimizer(), _plain,
        lambda value, s, *_: value / s.shape[-1],
        "Its default is the mean over rows and classes, so it is smaller by the number of classes. Version 0.40 had "
        "the mean over rows.",
    ),
)  # fmt: skip


def _list_wise(module: Any) -> Callable[..., Tensor]:
    def similarity(query: Tensor, other: Tensor) -> Tensor:
        return (query * other).sum(-1)

    built = module.DistillKLDivLoss(model=nn.Identity(), similarity_fct=similarity, temperature=T)

    def value(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
        # A query of ones, and each document's score as its only feature: the scores are the student's numbers.
        documents = [column.unsqueeze(-1) for column in student.unbind(-1)]
        result: Tensor = built.compute_loss_from_embeddings([torch.ones_like(documents[0]), *documents], teacher)
        return result

    return value


SENTENCE_TRANSFORMERS = (
    PeerLoss(
        "sentence_transformers.sentence_transformer.losses", "DistillKLDivLoss", _list_wise, _plain, shape=(256, 16),
    ),
)  # fmt: skip


def _relative_distances(module: Any) -> Callable[..., Tensor]:
    distance = module.LpDistance(normalize_embeddings=False, p=2, power=1)

    def relative(features: Tensor) -> Tensor:
        pairs: Tensor = distance(features)
        apart = ~torch.eye(len(features), dtype=torch.bool)
        return torch.where(apart, pairs, 0.0) / pairs[apart].mean()

    return lambda student, teacher, _: nn.functional.smooth_l1_loss(relative(student), relative(teacher))


METRIC_LEARNING = (
    PeerLoss(
        "pytorch_metric_learning.distances", "LpDistance in a Huber loss", _relative_distances,
        _mean("rkd", "rkd_distance"), **_FEATURES,
    ),
)  # fmt: skip

PEER_LOSSES: Mapping[str, PeerLoss] = {
    f"{loss.package} {loss.name}": loss
    for loss in (*TORCHDISTILL, *TEXTBREWER, *MODEL_OPTIMIZER, *SENTENCE_TRANSFORMERS, *METRIC_LEARNING)
}
"""All comparisons by toolkit and name."""
