"""Kim et al., 2022, arXiv:2211.11014: attention maps and outputs for a student with ternary weights."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils import parametrize

from limbeck.functional import attention_score_error, kl_divergence, state_squared_error
from limbeck.losses import Loss, Objective
from limbeck.methods import make
from limbeck.methods.features.transformer_layers import get_addresses, pair_addresses
from limbeck.models.quantization import FakeQuantizedWeight
from limbeck.papers.claim import Claim
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_transformers import (
    ACCURACY,
    ATTENTION,
    SIZES,
    draw_texts,
    load_teacher,
    measure_transformer,
    share_teachers,
    train_transformer,
)
from limbeck.recipe import Part, Stage

ARMS = {
    "alone": "labels only",
    "kd": "labels and soft targets",
    "scores": "predictions, hidden states and attention scores, as TernaryBERT",
    "maps": "predictions, hidden states and attention maps, gamma = 1",
    "maps and outputs": "attention outputs too, gamma = 0.5",
}
LAYERS = 4


def make_ternary(teacher: nn.Module) -> nn.Module:
    """Copy a transformer, with ternary weights in all linear layers of its encoder."""
    student = copy.deepcopy(teacher)
    for name, module in list(student.named_modules()):
        if isinstance(module, nn.Linear) and ".encoder." in name:
            parametrize.register_parametrization(module, "weight", FakeQuantizedWeight("ternary"))
    return student.train()


def match_scores(teacher: nn.Module) -> Part:
    """The losses of TernaryBERT: predictions, hidden states of all layers, and attention scores."""
    at = get_addresses("bert")
    objective: Objective = 1.0 * Loss(kl_divergence)
    for address in (at.at("embeddings"), *(at.at("layer", layer) for layer in range(LAYERS))):
        objective = objective + Loss(state_squared_error, student=address, teacher=address)
    for layer in range(LAYERS):
        places = pair_addresses(at, at, "query", "key", layer, layer)
        objective = objective + Loss(attention_score_error, **places, heads=2, name=f"scores {layer}")
    return Stage(objective, teacher=teacher)


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train the ternary copy of the teacher by one of the arms."""
    sizes, teacher = SIZES["quick" if quick else "full"], load_teacher(folder)
    texts, student = draw_texts(sizes.student, seed=2 + seed), make_ternary(teacher)
    layers = {"student_layers": LAYERS, "teacher_layers": LAYERS}
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher, temperature=1.0, weight=0.5),
        "scores": lambda: match_scores(teacher),
        "maps": lambda: make("qat_attention", teacher=teacher, gamma=1.0, **layers),
        "maps and outputs": lambda: make("qat_attention", teacher=teacher, gamma=0.5, **layers),
    }
    train_transformer(student, recipes[arm](), texts, seed=seed, epochs=max(sizes.epochs // 3, 1))
    return measure_transformer(student, draw_texts(sizes.test, seed=1), teacher, {i: i for i in range(LAYERS)})


STUDY = ClaimStudy(
    "ternary", "Which attention should a transformer with ternary weights learn: scores, maps or outputs?", ARMS,
    train_arm, (ACCURACY, ATTENTION),
    [
        Claim.of_difference("maps", "alone", ACCURACY),
        Claim.of_difference("maps", "kd", ACCURACY),
        Claim.of_difference("maps", "scores", ACCURACY, paper=0.38),
        Claim.of_difference("maps and outputs", "scores", ACCURACY, paper=0.59),
        Claim.of_difference("maps", "scores", ATTENTION),
    ],
    {"quick": 4.0, "full": 20.0}, **share_teachers(),
)  # fmt: skip
TITLE = (
    "Kim, Lee, Hong, Chang and Choi, Understanding and Improving Knowledge Distillation for Quantization-Aware "
    "Training of Large Transformer Encoders, 2022, arXiv:2211.11014"
)
CLAIM = "A transformer with ternary weights recovers more from attention maps and outputs than from attention scores."
EXPERIMENTS = (STUDY.experiment(),)
