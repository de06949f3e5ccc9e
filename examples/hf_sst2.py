"""A Hugging Face classifier of six layers teaches one of two, which begins as two of its layers: SST-2, a few minutes.

Needs the extra hf, and SST-2 in the folder that LIMBECK_DATA names. Nothing is downloaded: the tokenizer is trained
from the texts, the teacher from a configuration. What comes out opens with stock `from_pretrained`.
"""

import argparse
import time

import transformers

import limbeck as lb
from limbeck.functional import cross_entropy, kl_divergence, state_squared_error
from limbeck.measure import accuracy, predict
from limbeck.models import seeded, shallow
from limbeck.sources import subsample


def classifier(data, layers: int, seed: int) -> transformers.BertForSequenceClassification:
    names = dict(enumerate(data.class_names))
    config = transformers.BertConfig(
        vocab_size=len(data.tokenizer), hidden_size=64, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=64, pad_token_id=data.tokenizer.pad_token_id,
        id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    with seeded(seed):
        return transformers.BertForSequenceClassification(config)


def trained(model, stage: lb.Stage, train, epochs: int):
    began = time.perf_counter()
    budget = {"epochs": epochs, "batch_size": 32, "optimiser": lb.Optimiser(lr=1e-3, warmup=0.1, clip=1.0)}
    lb.distill(model, stage, train, **budget).finish()
    return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, help="learn from so many texts; all by default")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", default="runs/hf_sst2")
    asked = parser.parse_args()

    data = lb.load_data("sst2_sentences", vocabulary=4000, max_length=64)
    train = subsample(data.train, asked.examples or len(data.train), seed=0)

    def told(name: str, model, seconds: float) -> None:
        print(
            f"{name:34} {accuracy(predict(model, lb.Shuffled(data.test, batch_size=256))).value:.3f}  {seconds:4.0f} s"
        )

    labels = lb.Loss(cross_entropy)
    teacher = classifier(data, layers=6, seed=0)
    told("teacher, 6 layers", teacher, trained(teacher, lb.Stage(labels), train, asked.epochs))
    alone = classifier(data, layers=2, seed=1)
    told("student alone, 2 layers", alone, trained(alone, lb.Stage(labels), train, asked.epochs))

    # Layer j of the student is held against the last of the teacher's layers that it stands for.
    hidden = sum(
        lb.Loss(state_squared_error, student=f"bert.encoder.layer.{j}", teacher=f"bert.encoder.layer.{3 * j + 2}")
        for j in range(2)
    )
    soft = 0.1 * labels + 0.9 * lb.Loss(kl_divergence, temperature=2.0)
    for name, objective in {"distilled, logits": soft, "distilled, hidden states too": soft + 0.1 * hidden}.items():
        student = shallow(teacher, 2)
        told(name, student, trained(student, lb.Stage(objective, teacher=teacher), train, asked.epochs))

    student.save_pretrained(asked.out)
    data.tokenizer.save_pretrained(asked.out)
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(asked.out).eval()
    words = transformers.AutoTokenizer.from_pretrained(asked.out)
    for text in ("a moving and very funny film .", "dull , flat and far too long ."):
        found = opened(**words(text, return_tensors="pt")).logits.softmax(-1)[0]
        print(f"{opened.config.id2label[int(found.argmax())]:9} {float(found.max()):.2f}  {text}")
