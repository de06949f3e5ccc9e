"""A chat model distilled on text that it writes itself (GKD), with TRL. limbeck_after.py is the same with limbeck."""

import transformers
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from trl.experimental.gkd import GKDConfig, GKDTrainer

CHATS = [
    {"messages": [{"role": "user", "content": f"{a} + {b}?"}, {"role": "assistant", "content": f"{a + b}"}]}
    for a in range(10) for b in range(10)
]  # fmt: skip
TEMPLATE = """{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""


def train_tokenizer() -> transformers.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([message["content"] for chat in CHATS for message in chat["messages"]], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>", chat_template=TEMPLATE,
        model_max_length=64,
    )  # fmt: skip


def make_model(layers: int, width: int) -> transformers.GPT2LMHeadModel:
    """A small model, so that the script needs no download. Yours is ``from_pretrained``."""
    size = {"n_layer": layers, "n_embd": width, "n_head": 2, "n_positions": 64, "vocab_size": len(tokenizer)}
    end = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, **end))


if __name__ == "__main__":
    tokenizer = train_tokenizer()
    transformers.set_seed(0)
    teacher, student = make_model(2, 32), make_model(1, 16)
    trainer = GKDTrainer(
        student, teacher,
        GKDConfig(
            "runs/gkd", lmbda=0.5, beta=0.5, temperature=1.0, max_new_tokens=8, max_steps=20, learning_rate=1e-3,
            per_device_train_batch_size=8, report_to="none", save_strategy="no", bf16=False,
        ),
        train_dataset=Dataset.from_list(CHATS), processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    student.save_pretrained("runs/gkd/student")
    print(f"a student of {sum(p.numel() for p in student.parameters()):,} weights is in runs/gkd/student")
