"""The critic of a language policy: a value head on the decoder's last hidden states, in 32 bits whatever the model's type.

Where it reads is decided by the layout (`policy/layout.py`): before every token of a response (`level: token`), or at the
last token of the prompt before every turn (`level: step`), and once more where an episode was cut. The head is no part
of the model: checkpoints hold it in a file of its own, exports do not hold it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from triune.policy.options import CriticOptions

FILE = "critic.safetensors"
"""Beside a saved model or adapter."""


class Critic(nn.Module):
    """V(h) of hidden states h [V, width]: f32[V].

    The last layer starts at 0: the first values are 0, advantages are then plain (discounted) returns, and a critic that has
    learnt nothing sends no gradient into the policy. (Heads drawn with a std of 0.02 or more, as elsewhere, begin with
    values of the size of the rewards.) A hidden layer starts at random, the same in every run.
    """

    def __init__(self, width: int, options: CriticOptions) -> None:
        super().__init__()
        self.options = options
        out = nn.Linear(options.hidden or width, 1)
        nn.init.zeros_(out.weight)
        nn.init.zeros_(out.bias)
        if options.hidden:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                inner = nn.Linear(width, options.hidden)
            self.net = nn.Sequential(inner, nn.GELU(), out)
        else:
            self.net = nn.Sequential(out)

    def forward(self, hidden: Tensor) -> Tensor:
        values: Tensor = self.net((hidden.detach() if self.options.detach else hidden).float())
        return values[:, 0]

    @property
    def fresh(self) -> bool:
        """Whether nothing has been learnt: every value is still 0."""
        return not any(bool(p.any()) for p in self.net[-1].parameters())

    def save(self, path: Path) -> None:
        save_file({name: t.detach().contiguous() for name, t in self.state_dict().items()}, path / FILE)

    def load(self, path: Path) -> None:
        """Raises ValueError when the folder holds no head, or one of another shape."""
        if not (path / FILE).is_file():
            raise ValueError(f"{path} holds no {FILE}: it was saved by a policy without a critic")
        saved, mine = load_file(path / FILE), self.state_dict()
        shapes = [{name: tuple(t.shape) for name, t in each.items()} for each in (saved, mine)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{path / FILE} is of another critic: {shapes[0]}, and policy.critic asks for {shapes[1]}"
            )
        self.load_state_dict(saved)
