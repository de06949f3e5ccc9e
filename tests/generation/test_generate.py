"""Texts that models write: against brute force, whatever the batch, and without a trace in the model."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.functional import cross_entropy
from limbeck.generation import GenerationConfig, draw_tokens, generate
from limbeck.generation.writers import CacheUse, find_cache_use
from limbeck.models import read_context_length
from limbeck.random_seeds import counter_uniform
from limbeck.tap import Tapped

transformers = pytest.importorskip("transformers")
WORDS, END = 23, 1
PROMPTS = [torch.tensor(row) for row in ([3, 5, 7], [4], [9, 2, 2, 8, 6], [11, 3, 5], [20, 4])]
IDS = torch.tensor([40, 7, 3, 1_000_000, 12])


def config_of(name):
    small = {"vocab_size": WORDS, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None}
    wide = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {
        "gpt2": lambda: transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **small),
        "llama": lambda: transformers.LlamaConfig(**wide, num_key_value_heads=1, **small),
        "gemma3": lambda: transformers.Gemma3TextConfig(
            **wide, num_key_value_heads=1, head_dim=8, sliding_window=4,
            layer_types=["sliding_attention", "full_attention"], **small
        ),
        "opt": lambda: transformers.OPTConfig(
            hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16,
            max_position_embeddings=32, **small
        ),
        "bloom": lambda: transformers.BloomConfig(hidden_size=16, n_layer=2, n_head=2, **small),
        "mamba": lambda: transformers.MambaConfig(hidden_size=16, num_hidden_layers=2, state_size=4, **small),
        "bert": lambda: transformers.BertConfig(**wide, is_decoder=False, **small),
        "t5": lambda: transformers.T5Config(
            d_model=16, d_ff=32, num_layers=2, num_heads=2, d_kv=8, decoder_start_token_id=0, **small
        ),
        "bart": lambda: transformers.BartConfig(
            d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=40, decoder_start_token_id=2,
            forced_eos_token_id=None, **small
        ),
    }[name]()  # fmt: skip


CLASSES = {
    "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "gemma3": "Gemma3ForCausalLM", "opt": "OPTForCausalLM",
    "bloom": "BloomForCausalLM", "mamba": "MambaForCausalLM", "bert": "BertLMHeadModel",
    "t5": "T5ForConditionalGeneration", "bart": "BartForConditionalGeneration",
}  # fmt: skip


def make(name, seed=0):
    torch.manual_seed(seed)
    model = getattr(transformers, CLASSES[name])(config_of(name))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(6)
    return model.double()


class Own(nn.Module):
    """A model that knows neither masks nor a cache."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.body, self.head = nn.Embedding(WORDS, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, WORDS)
        self.head.weight.data.mul_(8)
        self.double()

    def forward(self, input_ids):
        return self.head(self.body(self.embed(input_ids))[0])


@torch.no_grad()
def brute_force(model, prompt, id, view, config, seed=0, tokens=None):
    """One text, one whole forward pass for each token, and the draw written down from its definition."""
    model = model.eval()
    uniform = counter_uniform(
        torch.tensor([id]), torch.tensor([view]), seed=seed, draws=config.max_new_tokens, stream="generation"
    )[0]
    new, logprobs = [], []
    writes = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    start = getattr(getattr(model, "config", None), "decoder_start_token_id", None)
    while len(new) < config.max_new_tokens and (not new or new[-1] not in config.end_tokens):
        text = torch.tensor([*([start] if writes else prompt.tolist()), *new])[None]
        output = model(prompt[None], decoder_input_ids=text) if writes else model(text)
        logits = (output if isinstance(output, torch.Tensor) else output.logits)[0, -1].double()
        if tokens is not None:
            logits[[token for token in range(WORDS) if token not in tokens]] = -torch.inf
        p = (logits / (config.temperature or 1.0)).softmax(0)
        drawn = (
            int(logits.argmax()) if config.temperature == 0 else int((p.cumsum(0) <= float(uniform[len(new)])).sum())
        )
        new.append(drawn)
        logprobs.append(float(p[drawn].log()))
    return new, logprobs


@pytest.mark.parametrize("name", [*CLASSES, "own"])
@pytest.mark.parametrize("temperature", [1.3, 0.0])
def test_texts_are_those_of_brute_force(name, temperature):
    model = Own() if name == "own" else make(name)
    config = GenerationConfig(max_new_tokens=9, temperature=temperature, eos_token_id=[END, 2])
    written = generate(model, PROMPTS, config, ids=IDS, views=3, seed=5)
    for i, prompt in enumerate(PROMPTS):
        text, logprobs = brute_force(model, prompt, int(IDS[i]), 3, config, seed=5)
        assert written.texts[i].tolist() == text
        assert bool(written.finished[i]) == (text[-1] in (END, 2))
        assert written.logprobs[i, : len(text)].tolist() == pytest.approx(logprobs, rel=1e-4, abs=1e-5)
        assert not written.logprobs[i, len(text) :].any()


class Mixed(nn.Module):
    """Logits of a mixture, by whole passes."""

    def __init__(self, one, other, share):
        super().__init__()
        self.one, self.other, self.share = one, other, share

    def forward(self, ids):
        outputs = (model(ids) for model in (self.one, self.other))
        p, q = (getattr(output, "logits", output).double().softmax(-1) for output in outputs)
        return ((1 - self.share) * p + self.share * q).log()


@pytest.mark.parametrize("names", [("gpt2", "llama"), ("gpt2", "own"), ("own", "mamba")])
@pytest.mark.parametrize(("share", "temperature"), [(0.3, 1.0), (0.2, 1.3), (0.7, 0.0)])
def test_a_mixture_draws_from_both_models(names, share, temperature):
    one, other = (Own() if name == "own" else make(name, seed) for seed, name in enumerate(names))
    config = GenerationConfig(max_new_tokens=7, temperature=temperature, eos_token_id=[END, 2])
    written = generate(one, PROMPTS, config, ids=IDS, views=3, seed=5, mixed_in=other, mixed_in_share=share)
    for i, prompt in enumerate(PROMPTS):
        text, logprobs = brute_force(Mixed(one, other, share), prompt, int(IDS[i]), 3, config, seed=5)
        assert written.texts[i].tolist() == text
        assert written.logprobs[i, : len(text)].tolist() == pytest.approx(logprobs, rel=1e-4, abs=1e-5)


def test_a_mixture_leaves_no_trace_and_has_a_share_between_0_and_1():
    one, other = make("gpt2").train(), Own().train()
    config = GenerationConfig(max_new_tokens=2)
    for share in (0.0, 1.0):
        with pytest.raises(ArgumentError):
            generate(one, PROMPTS, config, mixed_in=other, mixed_in_share=share)
    generate(one, PROMPTS, config, mixed_in=other, mixed_in_share=0.5)
    assert one.training
    assert other.training


@pytest.mark.parametrize("name", CLASSES)
def test_what_cannot_be_cached_or_padded_is_found(name):
    with torch.no_grad():
        use = find_cache_use(make(name).float().eval(), PROMPTS[0])
    assert use == CacheUse(name not in ("mamba", "bert"), name not in ("mamba", "bert"))


@pytest.mark.parametrize("name", ["gpt2", "t5", "own"])
def test_a_text_does_not_depend_on_its_batch(name):
    model = Own() if name == "own" else make(name)
    config = GenerationConfig(max_new_tokens=12, eos_token_id=END)
    together = generate(model, PROMPTS, config, ids=IDS, views=1)
    order = [3, 0, 4]
    again = generate(model, [PROMPTS[i] for i in order], config, ids=IDS[order], views=torch.ones(3, dtype=torch.long))
    assert [text.tolist() for text in again.texts] == [together.texts[i].tolist() for i in order]
    # A longer text begins as the shorter one does.
    longer = generate(model, PROMPTS, GenerationConfig(max_new_tokens=15, eos_token_id=END), ids=IDS, views=1)
    assert [text.tolist()[:12] for text in longer.texts] == [text.tolist() for text in together.texts]
    other = generate(model, PROMPTS, config, ids=IDS, views=2)
    assert [text.tolist() for text in other.texts] != [text.tolist() for text in together.texts]


class Counted:
    """Counts the tokens that a module reads."""

    def __init__(self, module):
        self.shapes = []
        self._handle = module.register_forward_pre_hook(lambda _, args: self.shapes.append(tuple(args[0].shape)))

    def close(self):
        self._handle.remove()


def test_trap_28_the_cache_works_with_gradient_checkpointing_in_train_mode():
    model = make("gpt2").train()
    enable = "activation_checkpointing_enable"
    getattr(model, enable if hasattr(model, enable) else "gradient_checkpointing_enable")()
    assert model.transformer.h[0].gradient_checkpointing
    seen = Counted(model.transformer.wte)
    plain = make("gpt2")
    config = GenerationConfig(max_new_tokens=9)
    written = generate(model, PROMPTS, config, ids=IDS)
    seen.close()
    assert written.texts[0].tolist() == generate(plain, PROMPTS, config, ids=IDS).texts[0].tolist()
    # The trial of the cache comes first; then the prompts, and one token at a time.
    assert seen.shapes[-9:] == [(5, 5), *[(5, 1)] * 8]
    assert model.transformer.h[0].gradient_checkpointing
    assert all(module.training for module in model.modules())


def test_texts_that_have_ended_leave_the_batch():
    model = make("gpt2")
    seen = Counted(model.transformer.wte)
    config = GenerationConfig(max_new_tokens=20, temperature=1.0, eos_token_id=list(range(8)))
    written = generate(model, PROMPTS * 3, config, ids=torch.arange(15))
    seen.close()
    assert seen.shapes[-1][0] <= 15 // 2
    alone = generate(model, PROMPTS[:1], config, ids=torch.tensor([5]))
    assert alone.texts[0].tolist() == written.texts[5].tolist()


def test_nothing_is_left_in_the_model():
    model = make("gpt2").train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    config, state = copy.deepcopy(model.config), copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    with Tapped(model, ["transformer.h.0"]) as tapped:
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
        generate(model, PROMPTS, GenerationConfig(max_new_tokens=4), ids=IDS)
        assert not tapped._values
        assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert modes == [module.training for module in model.modules()]
    assert model.config.to_dict() == config.to_dict()
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    out = model(PROMPTS[0][None]).logits  # it learns as before
    cross_entropy(out[0], labels=PROMPTS[0]).sum().backward()


@pytest.mark.filterwarnings("ignore::FutureWarning:peft.*", "ignore::FutureWarning:transformers.*")
def test_an_adapter_takes_part():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(make("gpt2"), peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    config = GenerationConfig(max_new_tokens=6)
    written = generate(model, PROMPTS, config, ids=IDS)
    for i, prompt in enumerate(PROMPTS):
        assert written.texts[i].tolist() == brute_force(model, prompt, int(IDS[i]), 0, config)[0]
    with model.disable_adapter():
        assert [t.tolist() for t in generate(model, PROMPTS, config, ids=IDS).texts] != [
            t.tolist() for t in written.texts
        ]


@pytest.mark.parametrize("known", [torch.arange(5), torch.tensor([3, 4, 9])])
def test_tokens_outside_the_vocabulary_are_never_drawn(known):
    model = make("gpt2")
    config = GenerationConfig(max_new_tokens=9)
    written = generate(model, PROMPTS, config, ids=IDS, tokens=known)
    assert torch.isin(written.tokens, known).all()
    expected, logprobs = brute_force(model, PROMPTS[2], int(IDS[2]), 0, config, tokens=known.tolist())
    assert written.texts[2].tolist() == expected
    assert written.logprobs[2].tolist() == pytest.approx(logprobs, rel=1e-5, abs=1e-6)


def test_the_context_limits_prompts_and_texts():
    model = make("gpt2")
    assert read_context_length(model) == 32
    config = GenerationConfig(max_new_tokens=40)
    prompts = [torch.full((30,), 4), torch.full((32,), 4), torch.tensor([3])]
    written = generate(model, prompts, config)
    assert written.lengths.tolist() == [3, 1, 32]
    assert not written.finished.any()
    with pytest.raises(DataError, match="33 tokens"):
        generate(model, [torch.full((33,), 4)], config)
    with pytest.raises(DataError):
        generate(model, [torch.tensor([], dtype=torch.long)], config)
    assert generate(model, [], config).texts == ()


def test_a_model_of_one_s_own_may_state_its_context():
    """As those of transformers do, in ``config``."""
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    model.config = SimpleNamespace(max_position_embeddings=4)
    written = generate(model, [torch.tensor([1, 2]), torch.tensor([1])], GenerationConfig(max_new_tokens=9))
    assert written.lengths.tolist() == [3, 4]  # the last new token is not read


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_nan_are_one_error(temperature):
    model = make("gpt2")
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone().fill_(torch.nan))
    with pytest.raises(LimbeckError, match="NaN"):
        generate(model, PROMPTS, GenerationConfig(max_new_tokens=3, temperature=temperature), ids=IDS)


def test_lower_precision_stays_lower_precision():
    model = make("gpt2").bfloat16()
    written = generate(model, PROMPTS, GenerationConfig(max_new_tokens=5), ids=IDS)
    assert written.logprobs.dtype == torch.float32
    assert written.lengths.tolist() == [5] * 5


# Draws.


def draws_by_definition(logits, uniform, config):
    """One row at a time in float64, with sorts and loops."""
    drawn = []
    for row, u in zip(logits.double(), uniform.double(), strict=True):
        p = (row / config.temperature).softmax(0)
        if config.top_k is not None and config.top_k < len(p):
            p = torch.where(p >= p.sort(descending=True).values[config.top_k - 1], p, 0.0)
        if config.top_p < 1:
            total, kept = 0.0, torch.zeros_like(p)
            for token in p.argsort(descending=True).tolist():
                kept[token] = p[token]
                total += float(p[token] / p.sum())
                if total >= config.top_p:
                    break
            p = kept
        p = p / p.sum()
        drawn.append((int((p.cumsum(0) <= u).sum()), p))
    return drawn


@pytest.mark.parametrize("size", [1, 3, 256, 257, 700, 4096])
@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.6}, {"top_k": 40, "top_p": 0.9, "temperature": 0.7}])
def test_draws_are_those_of_the_definition(size, options):
    generator = torch.Generator().manual_seed(size)
    logits = 3 * torch.randn(64, size, generator=generator, dtype=torch.float64)
    uniform = torch.rand(64, generator=generator)
    config = GenerationConfig(**options)
    tokens, logprobs = draw_tokens(logits, uniform, config)
    expected = draws_by_definition(logits, uniform, config)
    assert tokens.tolist() == [token for token, _ in expected]
    own = torch.stack([p[token].log() for token, p in expected])
    torch.testing.assert_close(logprobs, own, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_vocabulary_of_one_block_and_of_several_draws_alike(monkeypatch, dtype):
    generator = torch.Generator().manual_seed(4)
    logits, uniform = 3 * torch.randn(500, 200, generator=generator, dtype=dtype), torch.rand(500, generator=generator)
    one, one_logprobs = draw_tokens(logits, uniform, GenerationConfig())
    monkeypatch.setattr("limbeck.generation.sampling._BLOCK", 64)
    several, logprobs = draw_tokens(logits, uniform, GenerationConfig())
    assert torch.equal(one, several)
    torch.testing.assert_close(one_logprobs, logprobs, rtol=0, atol=16 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("size", [5, 256, 600])
def test_a_token_of_probability_zero_is_never_drawn(size):
    logits = torch.full((2, size), -torch.inf)
    logits[0, 3], logits[1, size - 2] = -1e4, 1e4
    for u in (0.0, 0.5, 1 - 2**-24):
        tokens, logprobs = draw_tokens(logits, torch.full((2,), u), GenerationConfig())
        assert tokens.tolist() == [3, size - 2]
        assert logprobs.tolist() == [0.0, 0.0]


def test_draws_have_the_probabilities():
    from scipy.stats import chisquare

    p = torch.tensor([0.5, 0.0, 0.2, 0.25, 0.05])
    rows = 20_000
    uniform = counter_uniform(torch.arange(rows), torch.zeros(rows).long(), seed=1, draws=1)[:, 0]
    tokens, _ = draw_tokens(p.log().expand(rows, 5), uniform, GenerationConfig())
    counts = tokens.bincount(minlength=5)
    assert counts[1] == 0
    assert chisquare(counts[[0, 2, 3, 4]], rows * p[[0, 2, 3, 4]]).pvalue > 1e-3


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")},
     {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"eos_token_id": -1}, {"eos_token_id": [1, -2]}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ArgumentError) as caught:
        GenerationConfig(**options)
    assert caught.value.argument == next(iter(options))


def test_settings_are_a_value():
    assert GenerationConfig(eos_token_id=[3, 1, 3]) == GenerationConfig(eos_token_id=(1, 3))
    assert GenerationConfig(eos_token_id=[3, 1]).fingerprint == GenerationConfig(eos_token_id=(1, 3)).fingerprint
    assert GenerationConfig(temperature=0.5).fingerprint != GenerationConfig().fingerprint
    assert GenerationConfig().end_tokens == ()
