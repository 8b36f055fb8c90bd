"""README.md of a run."""

from __future__ import annotations

from sfumato.jobs.config import read_config
from sfumato.training.run import Run, write_text


def card(run: Run, metrics: str | None = None, step: int | None = None) -> None:
    """README.md of a run: what was trained, how, with which result, and how to use it.

    ``step`` is that of the weights that ``metrics`` were measured of, where the run is not finished.
    """
    config = read_config(run)
    facts = config.recipe.facts(run)
    records = run.records()
    reached = step if step is not None else records[-1]["step"] if records else 0
    held_out = [r for r in records if "held_out" in r and r["step"] <= reached]
    lines = [
        f"# {run.path.name}", "",
        "A diffusion model trained with sfumato.", "",
        *(f"- {line}" for line in facts.words()),
        f"- steps: {reached} of {config.training.steps}, batch {config.training.batch}",
    ]  # fmt: skip
    if held_out:
        lines.append(f"- held-out loss: {held_out[-1]['held_out']:.4f}")
    if metrics:
        when = [] if step is None else ["", f"Not finished: measured at step {step}, of the average in its newest checkpoint."]
        lines += [*when, "", "```", metrics, "```"]
    lines += ["", *config.recipe.usage()]
    write_text(run.path / "README.md", "\n".join(lines) + "\n")
