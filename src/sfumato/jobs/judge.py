"""A reward: the user's own function of samples, asked with care."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong, one_line
from sfumato.jobs.imported import imported

if TYPE_CHECKING:
    from torch import Tensor

Reward = Callable[[list[Any], list[str]], Any]
"""Things of a field (of pictures arrays (H, W, 3) of bytes), and what each was drawn for by its name ("" where it has none), a
prompt say -> a finite number each: the more the better."""


@dataclass(frozen=True)
class Judge:
    """A reward and what it is called in messages."""

    function: Reward
    name: str

    @classmethod
    def of(cls, reward: str | Reward) -> Judge:
        """From ``module:function``, or a function. Raises Wrong."""
        if isinstance(reward, str):
            return cls(imported(reward, "reward"), reward)
        return cls(
            reward, f"{getattr(reward, '__module__', '')}:{getattr(reward, '__qualname__', type(reward).__name__)}"
        )

    def __call__(self, things: Sequence[Any], names: Sequence[str]) -> Tensor:
        """Rewards (N,), float64. Raises Wrong where the function raises, or gives anything but N finite numbers."""
        import torch

        try:
            found = self.function(list(things), list(names))
            rewards = torch.as_tensor(found).detach().cpu().double()
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {one_line(error)}"
            raise Wrong(f"reward = {self.name!r}: raised {said} for {len(things)} samples") from error
        if rewards.shape != (len(things),):
            raise Wrong(
                f"reward = {self.name!r}: gave shape {tuple(rewards.shape)} for {len(things)} samples; one number each"
            )
        if not bool(rewards.isfinite().all()):
            bad = int((~rewards.isfinite()).nonzero()[0])
            raise Wrong(f"reward = {self.name!r}: gave {float(rewards[bad])} for sample {bad}; must be finite")
        return rewards
