"""README.md of a run."""

from __future__ import annotations

from contextlib import suppress

from sfumato.jobs.config import read_config
from sfumato.training.run import Run, write_text


def step_of(run: Run) -> int:
    """The step of the weights that samples are drawn with: of a run that is not finished the newest checkpoint's, behind which
    the log may be ahead."""
    from sfumato.training import checkpoint

    if run.model.is_file():
        _, about = checkpoint.read_weights(run.model)
        with suppress(KeyError, ValueError):
            return int(about["step"])
        return max((r["step"] for r in run.records() if "loss" in r), default=0)  # of an older revision
    path, _ = checkpoint.newest(run.checkpoints)
    return 0 if path is None else int(path.name.partition("-")[2])


def card(run: Run, metrics: str | None = None) -> None:
    """README.md of a run: what was trained, how, with which result, and how to use it."""
    config = read_config(run)
    facts = config.recipe.facts(run)
    done = step_of(run)
    held_out = [r for r in run.records() if "held_out" in r and r["step"] <= done]
    lines = [
        f"# {run.path.name}", "",
        "A diffusion model trained with sfumato.", "",
        *(f"- {line}" for line in facts.words()),
        f"- steps: {done} of {config.training.steps}, batch {config.training.batch}",
    ]  # fmt: skip
    if held_out:
        lines.append(f"- held-out loss: {held_out[-1]['held_out']:.4f}, at step {held_out[-1]['step']}")
    if metrics:
        unfinished = f"Not finished: measured at step {done}, of the average in its newest checkpoint."
        lines += [*([] if run.model.is_file() else ["", unfinished]), "", "```", metrics, "```"]
    lines += ["", *config.recipe.usage()]
    write_text(run.path / "README.md", "\n".join(lines) + "\n")
