"""A transform of one's own: its views repeat bit for bit, its draws are apart from everybody's, and it is checked."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch

from limbeck.data.transforms.registry import make_transform
from limbeck.errors import LimbeckError, UnknownNameError

FILE = """
import random
import numpy as np
import torch
import neighbor

def noise(image, *, std=0.5):
    return image + std * torch.randn_like(image) + np.random.rand() + random.random() + neighbor.ZERO

class Add:
    def __init__(self, amount=1.0):
        self.amount = amount
    def __call__(self, image):
        return image + self.amount

def wider(image):
    return torch.cat([image, image])

def fails(image):
    raise ValueError("no such thing")

def nothing(image):
    image += 1

def text(image):
    return "abc"
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "neighbor.py").write_text("ZERO = 0.0\n")
    path = tmp_path / "views.py"
    path.write_text(FILE)
    return path


def examples(n=6):
    return torch.arange(n * 12.0).reshape(n, 3, 4), torch.arange(n) + 10


def test_a_view_is_a_function_of_id_and_number_alone(file):
    view = make_transform(f"{file}:noise")
    inputs, ids = examples()
    zero = torch.zeros_like(ids)
    whole = view(inputs, ids, zero)
    order = torch.tensor([4, 1, 5])
    assert view(inputs[order], ids[order], zero[order]).equal(whole[order])
    assert not view(inputs, ids, zero + 1).equal(whole)
    assert not make_transform({f"{file}:noise": {"seed": 1}})(inputs, ids, zero).equal(whole)
    again = pickle.loads(pickle.dumps(view))
    assert again(inputs, ids, zero).equal(whole)
    assert again.fingerprint == view.fingerprint


def test_no_one_elses_random_numbers_move(file):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    inputs, ids = examples()
    make_transform(f"{file}:noise")(inputs, ids, torch.zeros_like(ids))
    assert torch.get_rng_state().equal(states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_a_class_is_made_with_its_options_and_stands_in_a_chain(file):
    inputs, ids = examples()
    view = make_transform([{f"{file}:Add": {"amount": 2.0}}, f"{file}:Add"])
    assert view(inputs, ids, torch.zeros_like(ids)).equal(inputs + 3)
    assert "amount=2.0" in view.fingerprint
    assert str(file.parent) not in view.fingerprint


def test_another_file_of_the_same_name_has_another_fingerprint(file):
    before = make_transform(f"{file}:noise").fingerprint
    file.write_text(FILE.replace("0.5", "0.6"))
    assert make_transform(f"{file}:noise").fingerprint != before


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("missing", {}, UnknownNameError),
        ("noise", {"sdt": 1.0}, LimbeckError),
        ("Add", {"amuont": 1.0}, LimbeckError),
    ],
)
def test_a_wrong_name_or_option_is_refused_when_it_is_opened(file, name, options, error):
    with pytest.raises(error):
        make_transform({f"{file}:{name}": options})


@pytest.mark.parametrize("name", ["wider", "fails", "nothing", "text"])
def test_what_it_gives_is_checked(file, name):
    inputs, ids = examples()
    with pytest.raises(LimbeckError, match=name):
        make_transform(f"{file}:{name}")(inputs, ids, torch.zeros_like(ids))
