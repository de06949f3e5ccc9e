"""DistillTrainer minimizes the same loss as limbeck's engine."""

from __future__ import annotations

import copy

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

import limbeck as lb  # noqa: E402
from integrations.tiny import bert, engine_loss, gradients, objective, texts  # noqa: E402
from limbeck.errors import LimbeckError  # noqa: E402
from limbeck.functional import cross_entropy, kl_divergence, state_squared_error  # noqa: E402
from limbeck.integrations import DistillTrainer, IdDataset, to_batch  # noqa: E402
from limbeck.losses import Loss  # noqa: E402


def arguments(folder, **more):
    fixed = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    return transformers.TrainingArguments(str(folder), **{"per_device_train_batch_size": 8, **fixed, **more})


def trainer(folder, student, chosen, teacher, *, data=None, **more):
    examples = texts()
    collator = transformers.DataCollatorWithPadding(examples.tokenizer)
    rows = IdDataset(examples) if data is None else data
    return DistillTrainer(
        student, arguments(folder, **more), objective=chosen, teacher=teacher, train_dataset=rows,
        data_collator=collator,
    )  # fmt: skip


def test_one_batch_has_the_loss_and_gradient_of_the_engine(tmp_path):
    student, teacher = bert(seed=0), bert(seed=1)
    chosen = objective() + 0.1 * Loss(
        state_squared_error, student="bert.encoder.layer.0", teacher="bert.encoder.layer.1"
    )
    bridge = trainer(tmp_path, student, chosen, teacher)
    inputs = next(iter(bridge.get_train_dataloader()))
    loss, expected = engine_loss(copy.deepcopy(student), copy.deepcopy(chosen), teacher, to_batch(inputs))
    student.train()
    found = bridge.compute_loss(student, inputs)
    found.backward()
    assert found.item() == loss
    assert gradients(student).keys() == expected.keys()
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(student).items())
    assert not student.bert.encoder.layer[0]._forward_hooks


@pytest.mark.parametrize("labels", ["all", "some"])
def test_accumulation_changes_no_step(tmp_path, labels):
    """22 examples: the last window is short, and its last batch too; with some labels missing terms count apart."""

    def step(size, accumulate):
        examples = texts()
        if labels == "some":
            examples.labels[::3] = -100
        student = bert(seed=0)
        rows = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulate}
        more = {"num_train_epochs": 2, "seed": 3, "data_seed": 3, "learning_rate": 1e-2, "optim": "sgd"}
        bridge = trainer(tmp_path, student, objective(), bert(seed=1), data=IdDataset(examples), **rows, **more)
        bridge.train()
        return student.state_dict(), [entry["loss"] for entry in bridge.state.log_history if "loss" in entry]

    whole, losses = step(16, 1)
    parts, split = step(4, 4)
    assert all(torch.allclose(tensor, parts[name], atol=2e-6) for name, tensor in whole.items())
    assert losses == pytest.approx(split, abs=2e-4)


def test_training_learns_and_leaves_a_plain_model(tmp_path):
    examples, student = texts(), bert(seed=0)
    bridge = trainer(tmp_path, student, objective(), bert(seed=1), num_train_epochs=2)
    bridge.train()
    assert bridge.state.log_history[0]["loss"] > bridge.state.log_history[-2]["loss"]
    bridge.save_model(str(tmp_path / "student"))
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    inputs = examples.take(torch.arange(4)).inputs
    assert torch.equal(opened(**inputs).logits, student.eval()(**inputs).logits)


def test_evaluation_is_the_models_own_and_asks_no_teacher(tmp_path):
    student = bert(seed=0)
    bridge = trainer(tmp_path, student, objective(), bert(seed=1))
    bridge.distillation.loss = None
    found = bridge.evaluate(IdDataset(texts()))
    batch = texts().take(torch.arange(22))
    assert found["eval_loss"] == pytest.approx(student(**batch.inputs, labels=batch.labels).loss.item(), abs=1e-6)
    assert bridge.predict(IdDataset(texts())).predictions.shape == (22, 2)


def test_kept_answers_teach_as_live_ones_and_are_called_once(tmp_path):
    live, kept = bert(seed=0), bert(seed=0)
    more = {"num_train_epochs": 2, "seed": 3, "data_seed": 3}
    trainer(tmp_path, live, objective(), bert(seed=1), **more).train()
    cached = lb.CachedTeacher(bert(seed=1), tmp_path / "answers", encoding="float32")
    trainer(tmp_path, kept, objective(), cached, **more).train()
    assert all(torch.allclose(tensor, kept.state_dict()[name], atol=1e-5) for name, tensor in live.state_dict().items())
    alone = bert(seed=0)
    trainer(
        tmp_path, alone, objective(), lb.CachedTeacher(None, tmp_path / "answers", encoding="float32"), **more
    ).train()
    assert all(torch.equal(tensor, alone.state_dict()[name]) for name, tensor in kept.state_dict().items())


def test_heads_learn_are_saved_and_come_back(tmp_path):
    def made():
        head = lb.Projector()
        return Loss(state_squared_error, student="bert.embeddings", teacher="bert.encoder.layer.1", head=head)

    more = {"num_train_epochs": 2, "save_strategy": "epoch", "seed": 3, "data_seed": 3, "learning_rate": 1e-2}
    whole = trainer(tmp_path / "whole", bert(seed=0), objective() + made(), bert(seed=1), **more)
    begun = {name: tensor.clone() for name, tensor in whole.distillation.objective.state_dict().items()}
    whole.train()
    learnt = whole.distillation.objective.state_dict()
    assert begun
    assert any(not torch.equal(tensor, learnt[name]) for name, tensor in begun.items())
    again = trainer(tmp_path / "whole", bert(seed=9), objective() + made(), bert(seed=1), **more)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert all(
        torch.allclose(tensor, learnt[name], atol=1e-6)
        for name, tensor in again.distillation.objective.state_dict().items()
    )


def test_language_models_are_shifted_as_they_do_it_themselves(tmp_path):
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    rows = [
        {"input_ids": torch.randint(1, 20, (7,)), "attention_mask": torch.ones(7, dtype=torch.int64)} for _ in range(4)
    ]
    for row in rows:
        row["labels"] = row["input_ids"].clone()
        row["labels"][:2] = -100
    bridge = DistillTrainer(model, arguments(tmp_path), objective=1.0 * Loss(cross_entropy), train_dataset=rows)
    inputs = next(iter(bridge.get_train_dataloader()))
    model.train()
    model.transformer.drop.p = 0.0
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    assert bridge.compute_loss(model, inputs).item() == pytest.approx(model(**inputs).loss.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (
            {"teacher": "classes"},
            "The student has 2 values in the last dimension (classes, or features) and the teacher 3",
        ),
        ({"labels": None}, "cross_entropy needs labels"),
        ({"teacher": "average"}, "A MovingAverage"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1"),
        ({"teacher": "cached"}, "has no example ids"),
    ],
    ids=lambda value: str(next(iter(value.items()))) if isinstance(value, dict) else "",
)
def test_bad_input_is_one_sentence(tmp_path, spoilt, said):
    teachers = {
        "classes": lambda: bert(seed=1, classes=3),
        "average": lambda: lb.MovingAverage(),
        "cached": lambda: lb.CachedTeacher(bert(seed=1), tmp_path / "answers"),
    }
    teacher = teachers.get(spoilt.get("teacher"), lambda: bert(seed=1))()
    plain = [{k: v for k, v in IdDataset(texts())[i].items() if k not in ("id", *spoilt)} for i in range(8)]
    data = plain if spoilt.get("teacher") == "cached" or "labels" in spoilt else None
    more = {k: v for k, v in spoilt.items() if k == "label_smoothing_factor"}
    with pytest.raises(LimbeckError) as error:
        trainer(tmp_path, bert(seed=0), objective(), teacher, data=data, **more)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_without_training_data_nothing_can_be_checked(tmp_path):
    with pytest.raises(LimbeckError, match="needs train_dataset="):
        DistillTrainer(bert(seed=0), arguments(tmp_path), objective=objective(), teacher=bert(seed=1))


def test_losses_that_compare_examples_refuse_accumulation(tmp_path):
    @lb.kernel(per="batch")
    def spread(student, teacher):
        return (student.std(0) - teacher.std(0)).square().mean()

    with pytest.raises(LimbeckError, match="accumulate"):
        trainer(tmp_path, bert(seed=0), 1.0 * Loss(spread), bert(seed=1), gradient_accumulation_steps=2)


def test_a_divergence_alone_needs_no_labels(tmp_path):
    rows = [{k: v for k, v in IdDataset(texts())[i].items() if k != "labels"} for i in range(8)]
    student = bert(seed=0)
    bridge = trainer(tmp_path, student, 1.0 * Loss(kl_divergence), bert(seed=1), data=rows, num_train_epochs=1)
    bridge.train()
    assert bridge.state.global_step == 1
