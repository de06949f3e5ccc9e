"""Which logits look like a trained teacher's, where there is no teacher?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def posterior_logits(
    rows: int, classes: int, *, seed: int = 0, groups: int = 40, zipf: float = 0.0, noise: float = 1.2
) -> Float[Tensor, "rows classes"]:
    r"""Exact log-posteriors (up to a constant) of classes that come in groups, seen through noise.

    Class c lies at :math:`\mu_c`, its group's centre plus 0.7 times a standard normal vector, in 32 dimensions. A row
    draws its class with probability :math:`\propto (c + 1)^{-zipf}`, sees :math:`x = \mu_c + \sigma \epsilon` with
    :math:`\log \sigma` normal around ``log(noise)`` with deviation 0.4, and holds :math:`\log \pi_c + (x^T \mu_c -
    |\mu_c|^2 / 2) / \sigma^2`. So some rows are sure and some are not, similar classes get similar logits, and with
    zipf=1 frequent classes are likely as words are: what an ideal classifier, or language model, would answer.

    Args:
        rows: How many.
        classes: How many.
        seed: Another seed gives other classes and rows.
        groups: In how many groups the classes come.
        zipf: 0 for classes that are equally frequent, 1 for words.
        noise: The more, the less sure.
    """
    draw = torch.Generator().manual_seed(seed)
    group = torch.randint(groups, (classes,), generator=draw)
    place = torch.randn(groups, 32, generator=draw)[group] + 0.7 * torch.randn(classes, 32, generator=draw)
    log_prior = -zipf * torch.log(torch.arange(classes) + 1.0)
    own = torch.multinomial(log_prior.exp(), rows, replacement=True, generator=draw)
    spread = noise * torch.exp(0.4 * torch.randn(rows, 1, generator=draw))
    seen = place[own] + spread * torch.randn(rows, 32, generator=draw)
    return log_prior + (seen @ place.T - 0.5 * place.square().sum(-1)) / spread.square()
