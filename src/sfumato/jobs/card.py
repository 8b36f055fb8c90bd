"""README.md of a run."""

from __future__ import annotations

from sfumato.jobs.config import read_config
from sfumato.training.run import Run, write_text


def card(run: Run, metrics: str | None = None) -> None:
    """README.md of a run: what was trained, how, with which result, and how to use it."""
    config = read_config(run)
    facts = config.recipe.facts(run)
    records = run.records()
    held_out = [r for r in records if "held_out" in r]
    lines = [
        f"# {run.path.name}", "",
        "A diffusion model trained with sfumato.", "",
        *(f"- {line}" for line in facts.words()),
        f"- steps: {records[-1]['step'] if records else 0} of {config.training.steps}, batch {config.training.batch}",
    ]  # fmt: skip
    if held_out:
        lines.append(f"- held-out loss: {held_out[-1]['held_out']:.4f}")
    if metrics:
        lines += ["", "```", metrics, "```"]
    lines += ["", *config.recipe.usage()]
    write_text(run.path / "README.md", "\n".join(lines) + "\n")
