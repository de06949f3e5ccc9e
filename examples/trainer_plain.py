"""A small Hugging Face classifier trained on SST-2 with transformers.Trainer. trainer_distill.py distills it."""

import sys

import transformers

import limbeck as lb
from limbeck.data import subsample
from limbeck.integrations import IdDataset


def classifier(data, layers: int) -> transformers.BertForSequenceClassification:
    config = transformers.BertConfig(
        vocab_size=len(data.tokenizer), hidden_size=64, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=64, num_labels=2,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def fit(model, make=transformers.Trainer, **more) -> float:
    arguments = transformers.TrainingArguments(
        "runs/trainer", num_train_epochs=2, per_device_train_batch_size=32, learning_rate=1e-3, seed=0,
        gradient_accumulation_steps=2, report_to="none", save_strategy="no", disable_tqdm=True, logging_strategy="no",
        dataloader_pin_memory=False,
    )  # fmt: skip
    collator = transformers.DataCollatorWithPadding(data.tokenizer)
    trainer = make(model, arguments, train_dataset=IdDataset(train), data_collator=collator, **more)
    trainer.train()
    output = trainer.predict(IdDataset(data.test))
    return float((output.predictions.argmax(-1) == output.label_ids).mean())


if __name__ == "__main__":
    data = lb.load_data("sst2_sentences", vocabulary=4000, max_length=64)
    train = subsample(data.train, int(sys.argv[1]) if sys.argv[1:] else len(data.train), seed=0)
    transformers.set_seed(0)
    student = classifier(data, layers=1)
    print(f"student alone {fit(student):.3f}")
