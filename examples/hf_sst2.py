"""Distill a Hugging Face classifier of six layers into one of two layers on SST-2; takes some minutes.

The teacher is trained on 67,349 labeled phrases, the students on 6,920 sentences: on labels only (alone), or on the
teacher's outputs too. One of the students without a teacher has new layers; all others start as two of the teacher's.
Needs the extra hf, and SST-2 in the folder LIMBECK_DATA. Nothing is downloaded: the tokenizer is trained on the texts,
and the teacher is built from a configuration. The saved student opens with plain transformers. docs/huggingface.md
shows and discusses the results.
"""

import argparse
import time

import transformers

import limbeck as lb
from limbeck.data import subsample
from limbeck.functional import cross_entropy, kl_divergence, state_squared_error
from limbeck.metrics import accuracy, predict
from limbeck.models import seeded, shallow


def classifier(data, layers: int, seed: int) -> transformers.BertForSequenceClassification:
    names = dict(enumerate(data.class_names))
    config = transformers.BertConfig(
        vocab_size=len(data.tokenizer), hidden_size=64, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=64, pad_token_id=data.tokenizer.pad_token_id,
        initializer_range=0.1,  # near 1 / sqrt(64); BERT's own 0.02 is for 768 units
        id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    with seeded(seed):
        return transformers.BertForSequenceClassification(config)


def fit(model, stage: lb.Stage, train, epochs: int, batch_size: int = 32):
    began = time.perf_counter()
    optimizer = lb.Optimizer(lr=1e-3, warmup=0.1, clip=1.0)
    lb.distill(model, stage, train, epochs=epochs, batch_size=batch_size, optimizer=optimizer).finish()
    return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, help="learn from so many phrases and sentences; all by default")
    parser.add_argument("--epochs", type=int, default=3, help="of the students")
    parser.add_argument("--out", default="runs/hf_sst2")
    options = parser.parse_args()

    data = lb.load_data("sst2_sentences", vocabulary=4000, max_length=64)
    data.tokenizer.save_pretrained(options.out)
    phrases = lb.load_data("sst2", tokenizer=options.out, max_length=64).train
    phrases, sentences = (
        subsample(part, min(options.examples or len(part), len(part)), seed=0) for part in (phrases, data.train)
    )

    def report(name: str, model, seconds: float) -> None:
        score = accuracy(predict(model, lb.ShuffledLoader(data.test, batch_size=256, shuffle=False))).value
        print(f"{name:36} {score:.3f}  {seconds:4.0f} s", flush=True)

    labels = lb.Loss(cross_entropy)
    teacher = classifier(data, layers=6, seed=0)
    report("teacher, 6 layers, phrases", teacher, fit(teacher, lb.Stage(labels), phrases, epochs=1, batch_size=64))

    # Layer j of the student is compared with the last of the three teacher layers that it replaces.
    hidden = sum(
        lb.Loss(state_squared_error, student=f"bert.encoder.layer.{j}", teacher=f"bert.encoder.layer.{3 * j + 2}")
        for j in range(2)
    )
    soft = 0.1 * labels + 0.9 * lb.Loss(kl_divergence, temperature=2.0)
    arms = {
        "alone, 2 new layers": (classifier(data, layers=2, seed=1), lb.Stage(labels)),
        "alone, 2 of the teacher's layers": (shallow(teacher, 2), lb.Stage(labels)),
        "distilled, logits": (shallow(teacher, 2), lb.Stage(soft, teacher=teacher)),
        "distilled, hidden states too": (shallow(teacher, 2), lb.Stage(soft + 0.1 * hidden, teacher=teacher)),
    }
    for name, (student, stage) in arms.items():
        report(name, student, fit(student, stage, sentences, options.epochs))

    student.save_pretrained(options.out)
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(options.out).eval()
    words = transformers.AutoTokenizer.from_pretrained(options.out)
    for text in ("a moving and very funny film .", "dull , flat and far too long ."):
        probabilities = opened(**words(text, return_tensors="pt")).logits.detach().softmax(-1)[0]
        print(f"{opened.config.id2label[int(probabilities.argmax())]:9} {float(probabilities.max()):.2f}  {text}")
