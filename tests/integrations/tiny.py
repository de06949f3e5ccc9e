"""Two tiny text classifiers and their texts, for the tests of the integrations."""

from __future__ import annotations

import torch

from limbeck.data import TextDataset, train_tokenizer
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.models import seeded

WORDS = ("fine", "dull", "moving", "flat", "funny", "slow")
TEXTS = [f"a {WORDS[i % 6]} film {'of a kind ' * (i % 4)}by them" for i in range(22)]
LABELS = [(i % 6) % 2 for i in range(22)]


def texts() -> TextDataset:
    tokenizer = train_tokenizer(TEXTS, vocabulary=60, max_length=32)
    return TextDataset(TEXTS, LABELS, tokenizer=tokenizer, class_names=["good", "bad"])


def bert(layers: int = 2, *, seed: int, classes: int = 2, dropout: float = 0.0):
    import transformers

    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, num_labels=classes, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, initializer_range=0.3,
    )  # fmt: skip
    with seeded(seed):
        return transformers.BertForSequenceClassification(config)


def objective():
    return 0.3 * Loss(cross_entropy) + 0.7 * Loss(kl_divergence, temperature=2.0)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def engine_loss(student, chosen, teacher, batch):
    """The loss and gradient that limbeck's own engine has for one batch, read as it takes a step of size nought."""
    import limbeck as lb

    seen = {}

    def frozen(parameters):
        found = list(parameters)

        class Still(torch.optim.SGD):
            def step(self, closure=None):
                seen.update(gradients(student))

        return Still(found, lr=1.0)

    stage = lb.Stage(chosen, teacher=teacher, steps=1)
    run = lb.distill(student, stage, [batch], optimizer=lb.Optimizer(frozen), log_every=1)
    run.finish()
    return run.history[-1].loss, dict(seen)
