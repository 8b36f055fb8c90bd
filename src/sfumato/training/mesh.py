"""How processes are laid out: copies of the weights, parts of each copy, and parts of each sample.

    rank = (copy * shard + part) * context + strip

The processes of one strip group, neighbours in rank, see the same rows; all others see rows of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.errors import Wrong
from sfumato.training.options import ParallelOptions


@dataclass(frozen=True)
class Mesh:
    """replicate copies of the weights x shard processes that hold a part of each copy x context that share out each sample."""

    replicate: int = 1
    shard: int = 1
    context: int = 1

    @classmethod
    def of(cls, asked: ParallelOptions, world: int) -> Mesh:
        """The mesh of so many processes, with what was left open chosen; one process has nothing to share out.

        Raises Wrong where the three do not multiply to ``world``, and names each.
        """
        if world == 1:
            return cls()
        shard, replicate = asked.shard, asked.replicate
        if shard == -1:
            shard = max(1, world // ((replicate or 1) * asked.context))
        if replicate is None:
            replicate = max(1, world // (shard * asked.context))
        found = cls(replicate, shard, asked.context)
        if found.size != world:
            raise Wrong(
                f"parallel: replicate {replicate} x shard {shard} x context {asked.context} = {found.size}, but {world} "
                f"processes were started; give three numbers whose product is {world}, or start {found.size}"
            )
        return found

    @property
    def size(self) -> int:
        """Processes."""
        return self.replicate * self.shard * self.context

    @property
    def lanes(self) -> int:
        """Shares that a batch is cut into."""
        return self.replicate * self.shard

    @property
    def holders(self) -> int:
        """Processes that hold one copy of the weights together; those that share out a sample hold parts, too."""
        return self.shard * self.context if self.shard > 1 else 1

    def words(self) -> str:
        """For people."""
        return f"replicate {self.replicate} x shard {self.shard} x context {self.context}"
