from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sfumato.data import Items
from sfumato.errors import Wrong
from sfumato.jobs.facts import Facts
from sfumato.jobs.flags import Positional
from sfumato.jobs.methods import MethodOptions
from sfumato.jobs.recipe import Data, Recipe


@dataclass(frozen=True)
class Cloth(Facts):
    threads: int
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Ask:
    pattern: str | None = None
    """Pattern to weave (default: all in turn)."""


@dataclass(frozen=True)
class Weaving(Recipe):
    """Cloth as a .csv file: in each line a pattern's name and its threads."""

    Facts, Ask, guided, formats = Cloth, Ask, ("label",), (".txt",)
    data: Positional[Path]
    method: MethodOptions = MethodOptions()

    def prepare(self, run, tell, base=None):
        rows = [line.split(",") for line in self.data.read_text().split()]
        patterns = tuple(sorted({name for name, *_ in rows}))
        label = np.array([patterns.index(name) for name, *_ in rows])
        np.savez(run.cache / "cloth.npz", x=np.array([row[1:] for row in rows], np.float32), label=label)
        Cloth(len(rows[0]) - 1, patterns).write(run)
        return self

    def open(self, run):
        cloth = np.load(run.cache / "cloth.npz", allow_pickle=False)
        cut = [Items({name: cloth[name][part] for name in cloth}) for part in (slice(0, -20), slice(-20, None))]
        return Data(self.facts(run), *cut)

    def process(self, facts):
        return self.method.build()

    def build(self, facts, device):
        from sfumato.networks import MLP

        return MLP(dim=facts.threads, width=16, depth=1, classes=len(facts.patterns))

    def queries(self, model, ask, n):
        import torch

        from sfumato.diffusion import Blanks

        patterns = model.facts.patterns
        if ask.pattern not in (None, *patterns):
            raise Wrong(f"pattern = {ask.pattern!r}: must be one of {', '.join(patterns)}")
        label = torch.tensor([i for i, name in enumerate(patterns) if ask.pattern in (None, name)])
        return Blanks(torch.zeros(model.facts.threads), n or 4, {"label": label})

    def things(self, model, queries, drawn):
        return list(drawn.x.cpu().numpy())

    def save(self, thing, path, making):
        path.write_text(" ".join(f"{value:.3f}" for value in thing))
        return path

    def evaluate(self, model, measure, ask):
        from sfumato.jobs.evaluate import draw_samples, stacked
        from sfumato.jobs.report import Report
        from sfumato.metrics.table import compare

        data = self.open(model.run)
        return Report(compare(draw_samples(model, 20, ask=ask), stacked(data.train), stacked(data.held_out)))


RECIPE = Weaving
