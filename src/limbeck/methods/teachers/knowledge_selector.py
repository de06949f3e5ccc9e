"""`KnowledgeSelector`: the actor and the critic of knowledge selection, with their memory of phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

_HIDDEN, _UPDATES, MEMORY = 32, 60, 512
_LEANING = 1e-3
"""How much the actor leans to weights of 1/2: where a sigmoid is 0 or 1 it has no gradient to come back by."""


class KnowledgeSelector(nn.Module):
    r"""An actor, :math:`a = \mu(s)`, and a critic, :math:`Q(s, a)`, of three layers each, and what they have seen.

    The state s of a phase is what two networks of two layers make of the mean features of the student and the teacher.

    Args:
        kinds: The names of the kinds of knowledge.
        gamma: The factor of a reward.

    Attributes:
        action: The weights of the present phase.
    """

    action: Tensor
    state: Tensor
    memory: Tensor
    seen: Tensor
    sums: Tensor

    def __init__(self, kinds: Sequence[str], *, gamma: float) -> None:
        super().__init__()
        self.kinds, self.gamma = tuple(kinds), gamma
        self.register_buffer("action", torch.full((len(kinds),), 0.5))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))
        for name in ("state", "memory", "sums"):
            self.register_buffer(name, torch.zeros(0))
        self.widths: tuple[int, int] | None = None

    @property
    def by_name(self) -> dict[str, float]:
        """The weights of the present phase by kind."""
        return dict(zip(self.kinds, self.action.tolist(), strict=True))

    def shape(self, student: int, teacher: int, device: torch.device) -> None:
        """Create the networks for features of these widths, once, and begin an episode."""
        size = student + teacher
        if self.widths is None:
            self.widths = (student, teacher)
            self.encoders = nn.ModuleList(
                nn.Sequential(nn.Linear(width, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN))
                for width in self.widths
            )
            self.actor = _three_layers(2 * _HIDDEN, len(self.kinds))
            self.critic = _three_layers(2 * _HIDDEN + len(self.kinds), 1)
            nn.init.zeros_(cast(nn.Linear, self.actor[-1]).weight)
            nn.init.zeros_(cast(nn.Linear, self.actor[-1]).bias)  # so that all weights begin at 1/2
            self.memory = torch.zeros(MEMORY, 2 * (size + len(self.kinds)) + 2)
            self.requires_grad_(False)  # the optimizer of the student has no part in them
            self.to(device)
        self.state = torch.zeros(size, device=device)
        # Features, and of held-out examples the loss; each with its count. Then the loss of the phase before.
        self.sums = torch.zeros(size + 4, dtype=torch.float64, device=device)
        self.action.fill_(0.5)

    def encode(self, states: Float[Tensor, "rows width"]) -> Float[Tensor, "rows hidden"]:
        """The state that both networks read."""
        parts = states.split(list(cast("tuple[int, int]", self.widths)), -1)
        return torch.cat([encoder(part) for encoder, part in zip(self.encoders, parts, strict=True)], -1)

    def act(self, states: Float[Tensor, "rows width"]) -> Float[Tensor, "rows kinds"]:
        """The weights that the actor gives."""
        weights: Tensor = self.actor(self.encode(states)).sigmoid()
        return weights

    def judge(self, states: Tensor, actions: Tensor) -> Float[Tensor, " rows"]:
        """The critic's value of weights."""
        value: Tensor = self.critic(torch.cat([self.encode(states), actions], -1)).squeeze(-1)
        return value

    def remember(self, action: Tensor, reward: float, following: Tensor, next_action: Tensor, *, last: bool) -> None:
        """Keep what the weights of a phase have led to; the oldest entry makes room."""
        entry = torch.cat([self.state, action, following, next_action, torch.tensor([reward, last]).to(self.state)])
        self.memory[int(self.seen) % MEMORY] = entry
        self.seen += 1

    def learn(self, rate: float) -> None:
        r"""Fit the critic to :math:`\gamma r + Q(s', a')` on the memory, and let the actor go up the critic's value."""
        count = min(int(self.seen), MEMORY)
        sizes = [len(self.state), len(self.kinds)] * 2 + [1, 1]
        state, action, following, next_action, reward, last = self.memory[:count].split(sizes, -1)
        # In units of their size, so that the rates do not depend on the scale of the loss. One reward alone has a size,
        # but its standard deviation is 0.
        size = reward.square().mean().sqrt()
        reward = reward / size.where(size > 0, 1.0)
        critics = [*self.critic.parameters(), *self.encoders.parameters()]
        self.requires_grad_(True)
        with torch.enable_grad():
            critic = torch.optim.Adam(critics, lr=rate)
            actor = torch.optim.Adam(self.actor.parameters(), lr=rate / 4)  # slower: it must not follow an early critic
            for _ in range(_UPDATES):
                ahead = self.judge(following, next_action).detach() * (1 - last.squeeze(-1))
                aim = self.gamma * reward.squeeze(-1) + ahead
                _take_step(critic, (self.judge(state, action) - aim).square().mean())
                if count <= len(self.kinds):  # the critic cannot know yet which kind a reward came from
                    continue
                scores = self.actor(self.encode(state).detach())
                worth = self.judge(state, scores.sigmoid()).mean()
                _take_step(actor, _LEANING * scores.square().mean() - worth)
        self.zero_grad(set_to_none=True)
        self.requires_grad_(False)


def _take_step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _three_layers(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, outputs)
    )
