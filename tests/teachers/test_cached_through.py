"""Inputs of the output layer stored in place of logits: small, not multiplied out, with what follows the layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import ArrayDataset, ShuffledLoader
from limbeck.cache import CacheReader
from limbeck.errors import LimbeckError
from limbeck.functional import HiddenLogits
from limbeck.teachers import CachedTeacher, TeacherContext, fill_cache, verify_cache

VOCABULARY, WIDTH, LENGTH = 50, 6, 12
AFTER = [{}, {"final_logit_softcapping": 2.0}, {"logit_scale": 0.25}, {"logits_scaling": 8.0}]


class Config:
    def __init__(self, after):
        self._after = after

    def get_text_config(self, decoder=True):
        return self

    def to_dict(self):
        return self._after


class Language(nn.Module):
    """A language model in the format of transformers, which counts the rows of its output layer."""

    def __init__(self, after, *, bias=False):
        super().__init__()
        torch.manual_seed(0)
        self.config = Config(after)
        self.embed, self.lm_head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=bias)
        self.rows = 0
        self.lm_head.register_forward_hook(self._count)

    def _count(self, _, given, output):
        self.rows += given[0].shape[:-1].numel()

    def forward(self, input_ids):
        after = self.config.to_dict()
        logits = self.lm_head(self.embed(input_ids).cumsum(1)) * after.get("logit_scale", 1.0)
        logits = logits / after.get("logits_scaling", 1.0)
        cap = after.get("final_logit_softcapping")
        return logits if cap is None else cap * torch.tanh(logits / cap)


class Texts(ArrayDataset):
    """Texts of different lengths; the mask leaves out padding."""

    def __init__(self):
        super().__init__(torch.randint(VOCABULARY, (7, LENGTH), generator=torch.Generator().manual_seed(1)))

    def take(self, index):
        batch = super().take(index)
        return batch._replace(mask=torch.arange(LENGTH) < (3 + index)[:, None])


def contents(teacher, loader, **how):
    with teacher.open(TeacherContext(loader=loader, **how)) as answer, torch.no_grad():
        return [(batch, answer(batch)) for batch in loader.batches(0, 0)]


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("bias", [False, True])
def test_logits_are_those_of_the_model_with_all_that_follows_its_layer(after, bias, tmp_path):
    network, loader = Language(after, bias=bias), ShuffledLoader(Texts(), batch_size=3, seed=2)
    teacher = CachedTeacher(network, tmp_path, encoding="float32", through="lm_head")
    list(fill_cache(teacher, loader))
    for again in (teacher, CachedTeacher(None, tmp_path)):
        for batch, outputs in contents(again, loader):
            expected = network(batch.inputs).detach()[batch.mask]
            torch.testing.assert_close(outputs["logits"][batch.mask], expected, rtol=1e-5, atol=1e-6)
    assert verify_cache(teacher, loader, sample=7).same


def test_filling_never_computes_the_logits_of_a_batch(tmp_path):
    network, loader = Language({}), ShuffledLoader(Texts(), batch_size=3)
    list(fill_cache(CachedTeacher(network, tmp_path, through="lm_head"), loader))
    assert network.rows <= 2 * 8, "the check looks at eight positions"


def test_stored_hidden_states_take_two_bytes_a_number_and_are_not_multiplied_out(tmp_path):
    network, loader = Language({}), ShuffledLoader(Texts(), batch_size=3)
    teacher = CachedTeacher(network, tmp_path, encoding="bfloat16", through="lm_head")
    list(fill_cache(teacher, loader))
    reader = CacheReader(tmp_path)
    assert reader.columns["lm_head:in"].width == 2 * WIDTH
    assert int(reader.keys.positions.sum()) == sum(3 + row for row in range(7))
    for batch, outputs in contents(CachedTeacher(None, tmp_path), loader, hidden_logits=True):
        hidden = outputs.hidden["logits"]
        assert isinstance(hidden, HiddenLogits)
        assert "logits" not in {*outputs}
        assert hidden.hidden.shape == (batch.size, LENGTH, WIDTH)
        expected = network(batch.inputs).detach()[batch.mask]
        torch.testing.assert_close(hidden.to_dense()[batch.mask], expected, rtol=2e-2, atol=5e-2)


def test_what_follows_the_layer_unsaid_is_refused(tmp_path):
    class Unsaid(Language):
        def forward(self, input_ids):
            return super().forward(input_ids) ** 3

    loader = ShuffledLoader(Texts(), batch_size=3)
    with pytest.raises(LimbeckError, match="another operation"):
        list(fill_cache(CachedTeacher(Unsaid({}), tmp_path, through="lm_head"), loader))


def test_a_linear_layer_that_is_not_the_last_one_is_refused(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.body(x))

    loader = ShuffledLoader(ArrayDataset(torch.randn(4, 4)), batch_size=2)
    with pytest.raises(LimbeckError, match="'body'"):
        list(fill_cache(CachedTeacher(Two(), tmp_path, through="body"), loader))
