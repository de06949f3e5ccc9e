"""Hinton, Vinyals and Dean, 2015, arXiv:1503.02531."""

from limbeck.papers.hinton2015.claims import add_claims
from limbeck.papers.hinton2015.confusions import CONFUSIONS
from limbeck.papers.hinton2015.mnist import MNIST, OMIT3, ONLY78, TEMPERATURE
from limbeck.papers.hinton2015.mnist_settings import SETTINGS
from limbeck.papers.hinton2015.regularizer import REGULARIZER
from limbeck.papers.hinton2015.speech import SPEECH

TITLE = "Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531"
CLAIM = (
    "A student learns more from the softened predictions of a teacher than from labels alone, even about classes that "
    "it never saw."
)
SEEDS = {"quick": 1, "full": 3}
EXPERIMENTS = tuple(
    add_claims(one) for one in (SETTINGS, MNIST, TEMPERATURE, OMIT3, ONLY78, REGULARIZER, SPEECH, CONFUSIONS)
)
