"""What suits each way to learn a flow map, as measured."""

from __future__ import annotations

from typing import Any

# measured on the demo's pictures: without the weight by error the losses of long steps drown those of short ones; half of
# the samples anchored to the teacher take a third off the distance at 4 steps, more that go all the way keep that of one;
# semigroup, whose targets the map makes itself, needs as much of the teacher and less weight on its small errors
HABITS: dict[str, dict[str, float]] = {
    "lagrangian": {"anchor": 0.5, "ends": 0.3, "power": 1.0},
    "semigroup": {"anchor": 0.5, "power": 0.5},
    "mean_flow": {"power": 1.0},
    "consistency": {"power": 1.0},
}


def finest_share(process: Any) -> float:
    """The share of noise from which the last step goes to the data in one; of products and manifolds the least."""
    finest: float = getattr(process, "finest", 0.0)
    return max(finest / (1 + finest), 0.01)
