"""Dense encodings: the logits of all classes and their precision."""

from __future__ import annotations

import pytest
import torch

from benchmarks.encoding_errors import posterior_logits
from cache.records import again, encoded
from limbeck.cache.encodings import encoding, encoding_names, kl_error, make_encoding
from limbeck.errors import DataError, LimbeckError, UnknownNameError
from limbeck.functional import logit_squared_error, reverse_kl

DENSE = ["float32", "float16", "bfloat16", "quantized"]
LARGEST = torch.finfo(torch.float32).max


def test_float32_is_exact_to_the_bit():
    logits = torch.randn(20, 7) * 10.0 ** torch.arange(-20, 0)[:, None]
    logits[0, 1], logits[1, 0] = -torch.inf, -0.0
    found = again(make_encoding("float32", classes=7), logits)
    assert torch.equal(found.view(torch.int32), logits.view(torch.int32))


@pytest.mark.parametrize(("name", "dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_what_the_teacher_said_in_a_type_comes_back_in_it(name, dtype):
    logits = (torch.randn(50, 9) * 30).to(dtype)
    logits[0, 3] = -torch.inf
    assert torch.equal(again(make_encoding(name, classes=9), logits), logits.float())


def test_float16_rounds_distances_from_the_largest():
    logits = torch.randn(50, 300) * 4 - 100
    found = again(make_encoding("float16", classes=300), logits)
    top = logits.amax(-1, keepdim=True)
    assert bool(((found - logits).abs() <= (top - logits) / 2048 + 2e-5).all())
    assert float((logits.half().float() - logits).abs().max()) > 0.03  # as it is, float16 would be this far off


@pytest.mark.parametrize("name", [*DENSE, "top-k"])
@pytest.mark.parametrize("scale", [1e5, 1e9, 1e30, LARGEST])
def test_huge_logits_stay_finite_and_sure(name, scale):
    logits = scale * torch.tensor([[1.0, -1.0, 0.5, 0.0], [0.25, 1.0, -0.5, -1.0]])
    found = again(make_encoding(name, classes=4, **({"k": 2} if name == "top-k" else {})), logits)
    dense = found.spread() if name == "top-k" else found
    assert dense.isfinite().all()
    assert torch.equal(dense.softmax(-1), logits.softmax(-1))


@pytest.mark.parametrize("name", DENSE)
def test_masked_columns_and_rows_stay_masked(name):
    logits = torch.randn(4, 6)
    logits[:, 2] = -torch.inf
    logits[1] = -torch.inf
    logits[3, 1:] = -torch.inf
    found = again(make_encoding(name, classes=6), logits)
    assert torch.equal(found == -torch.inf, logits == -torch.inf)


@pytest.mark.parametrize("name", DENSE)
def test_a_mask_of_minus_1e9_does_not_blur_the_others(name):
    logits = posterior_logits(64, 200, groups=20)
    masked = logits.clone()
    masked[:, 150:] = -1e9
    error = kl_error(make_encoding(name, classes=200), masked)
    assert 0 <= error < {"float32": 1e-12, "float16": 1e-6, "bfloat16": 1e-2, "quantized": 1e-3}[name]


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_errors(name, temperature):
    error = kl_error(make_encoding(name, classes=1000), posterior_logits(200, 1000), temperature=temperature)
    bars = {"float32": 1e-12, "float16": 2e-7, "bfloat16": 5e-3, "quantized": 2e-4}
    assert 0 <= error < bars[name]


def test_more_bits_are_closer():
    logits = posterior_logits(200, 1000)
    errors = [kl_error(make_encoding("quantized", classes=1000, bits=bits), logits) for bits in range(3, 13)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6 < errors[5]


def test_equal_logits_stay_equal():
    found = again(make_encoding("quantized", classes=5), torch.full((2, 5), 3.25))
    assert torch.equal(found, torch.full((2, 5), 3.25))


@pytest.mark.parametrize("name", DENSE)
def test_every_kernel_is_sound(name):
    one = make_encoding(name, classes=5)
    assert one.invalid_reason(reverse_kl) is None
    assert one.invalid_reason(logit_squared_error) is None


@pytest.mark.parametrize("name", [*DENSE, "top-k", "sampled"])
def test_no_rows(name):
    one = make_encoding(name, classes=5, **{"top-k": {"k": 2}, "sampled": {"draws": 3}}.get(name, {}))
    assert len(again(one, torch.zeros(0, 5))) == 0


@pytest.mark.parametrize("name", [*DENSE, "top-k", "sampled"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_answer_is_refused(name, bad):
    one = make_encoding(name, classes=4, **{"top-k": {"k": 2}, "sampled": {"draws": 3}}.get(name, {}))
    logits = torch.zeros(5, 4)
    logits[3, 1] = bad
    with pytest.raises(DataError, match=r"hold NaN or \+inf in 1 of 5 rows \(the first is row 3\)"):
        encoded(one, logits)


def test_float64_logits_that_no_float32_holds():
    logits = torch.tensor([[1e300, 0.0, -1e300, -torch.inf]], dtype=torch.float64)
    assert torch.equal(
        again(make_encoding("float32", classes=4), logits), torch.tensor([[LARGEST, 0.0, -LARGEST, -torch.inf]])
    )


# Names.


@pytest.mark.parametrize("spec", ["float32", {"name": "quantized", "bits": 6}, {"name": "top-k", "k": 3, "bits": 7}])
def test_a_spec_makes_the_same_again(spec):
    one = encoding(spec, classes=9)
    other = encoding(one.spec, classes=9)
    assert (type(one), one.spec, one.width) == (type(other), other.spec, other.width)


def test_every_name():
    assert encoding_names() == [
        "bfloat16",
        "compact-top-k",
        "float16",
        "float32",
        "likelihoods",
        "listed",
        "mean-embedding",
        "quantized",
        "sampled",
        "top-k",
    ]


@pytest.mark.usefixtures("unchecked")
def test_wrong_names_and_parameters():
    with pytest.raises(UnknownNameError, match=r"Unknown encoding 'topk'\. Did you mean 'top-k'\?"):
        make_encoding("topk", classes=5)
    with pytest.raises(
        UnknownNameError, match=r"Unknown parameter of the encoding 'top-k': 'bit'\. Did you mean 'bits'"
    ):
        make_encoding("top-k", classes=5, k=2, bit=3)
    with pytest.raises(LimbeckError, match=r"The encoding 'top-k' needs k: k=50, for example"):
        make_encoding("top-k", classes=5)
    with pytest.raises(LimbeckError, match="k=6 of 5 classes: there are no more"):
        make_encoding("top-k", classes=5, k=6)
    with pytest.raises(LimbeckError, match=r"k is a whole number, 1 or more; got 0"):
        make_encoding("top-k", classes=5, k=0)
    with pytest.raises(LimbeckError, match=r"classes is a whole number, 1 or more; got 2\.5"):
        make_encoding("float32", classes=2.5)
    for bits in (1, 17, 8.0, True):
        with pytest.raises(LimbeckError, match=rf"bits \(or 32, for float32\) is a whole number.*got {bits}"):
            make_encoding("quantized", classes=5, bits=bits)
    with pytest.raises(LimbeckError, match="An encoding is a name, or a mapping with one"):
        encoding({"k": 3}, classes=5)


def test_other_classes_and_other_records():
    one = make_encoding("float16", classes=5)
    with pytest.raises(LimbeckError, match="These logits are of 4 classes, and the encoding was made for 5"):
        encoded(one, torch.zeros(1, 4))
    with pytest.raises(DataError, match="has 14 bytes, and these have 20"):
        one.decode(encoded(make_encoding("float32", classes=5), torch.zeros(1, 5)))
