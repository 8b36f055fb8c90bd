"""docs/defaults.md and its picture, of what `python -m benchmarks.defaults` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import DOCS, figure, read, save_figure


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def shown(found: Mapping[str, float], sign: str = "") -> str:
    """A value with its interval."""
    return f"{found['value']:{sign}.3f} ({found['low']:{sign}.3f}..{found['high']:{sign}.3f})"


def against(each: Mapping[str, Any]) -> str:
    """A network's distance, and the difference, where that is not to itself."""
    value, difference = f"{each['kernel']['value']:.3f}", each["difference"]
    return value if difference["low"] == difference["high"] == 0 else f"{value}, {shown(difference, '+')}"


def beats(row: Mapping[str, Any]) -> str:
    """In how many networks the difference is below 0, and in how many beyond its interval."""
    every = [each["difference"] for each in row["networks"].values()]
    return f"{sum(d['value'] < 0 for d in every)} / {sum(d['high'] < 0 for d in every)} of {len(every)}"


def stage_table(stage: Mapping[str, Any]) -> str:
    """A row for each choice, the best first: the ratio to the old default, wins, and each network's distance."""
    networks = list(next(iter(stage.values()))["networks"])
    rows = [
        (
            name, f"{row['ratio']:.2f}", beats(row),
            *(against(row["networks"][n]) for n in networks),
        )
        for name, row in stage.items()
    ]  # fmt: skip
    heads = list(networks)
    for part, said in (("/base/", ""), ("/longer/", ", 120 s"), ("/covered/", ", covered")):
        heads = [name.replace(part, f"{said}, seed ") for name in heads]
    return table(("choice", "ratio", "better / surely", *heads), rows)


def few_table(few: Mapping[str, Any]) -> str:
    """A row for each walk and network, a column for each number of steps."""
    rows = []
    for walk in next(iter(few.values())):
        for key, cover in (("demo/longer/0", "0"), ("demo/covered/0", "0.02")):
            found = [shown(stage[walk]["networks"][key]["kernel"]) for stage in few.values()]
            rows.append((walk, cover, *found))
    return table(("walk", "cover", *(f"{n} steps" for n in few)), rows)


def changes_table(changes: Mapping[str, Any]) -> str:
    """A row for each changed choice of training."""
    rows = [
        (key.split("/")[1], f"{row['held_out']:.4f}", shown(row["kernel"]), shown(row["difference"], "+"))
        for key, row in changes.items()
    ]
    return table(("changed", "held-out loss", "kernel distance", "difference"), rows)


def draw(facts: Mapping[str, Any]) -> None:
    """docs/defaults.png: every walk's distance against calls, the mean over networks; guidance; changes of training."""
    sheet, [[walks, guidance, changes]] = figure(3, 1, 4.2, 3.6)
    cells = facts["cells"]["patches"]
    final = list(facts["stages"]["finalists"])
    for group in final:
        walk = group.rsplit(", w ", 1)[0]
        points: dict[int, list[float]] = {}
        for key, value in cells.items():
            network, rest = key.split(": ", 1)
            if "/base/" in network and rest.startswith(f"{walk}, ") and rest.endswith(", w 1.5, validation"):
                steps = int(rest.removeprefix(f"{walk}, ").split(" ")[0])
                points.setdefault(steps, []).append(value["value"])
        ordered = sorted((n, sum(v) / len(v)) for n, v in points.items())
        walks.plot(*zip(*ordered, strict=True), marker="o", ms=3, lw=1.2, label=walk)
    walks.set(xscale="log", xlabel="network calls (each side of guidance)", title="solver and grid, w 1.5")
    walks.set_ylabel("kernel distance, patches, validation")
    walks.set_xticks([5, 10, 20], ["5", "10", "20"])
    lines: dict[str, list[tuple[float, float]]] = {}
    for group, row in facts["stages"]["guidance"].items():
        walk, w = group.rsplit(", w ", 1)
        lines.setdefault(walk, []).append((float(w), row["ratio"]))
    for walk, ratios in lines.items():
        guidance.plot(*zip(*sorted(ratios), strict=True), marker="o", ms=3, lw=1.2, label=walk)
    guidance.axhline(1, color="#a0aec0", ls=":", lw=1)
    guidance.set(xlabel="guidance w", ylabel="distance / that of the old default", title="guidance, 10 steps")
    rows = list(facts["stages"].get("changes", {}).items())[::-1]
    for i, (_, row) in enumerate(rows):
        d = row["difference"]
        changes.errorbar(d["value"], i, xerr=[[d["value"] - d["low"]], [d["high"] - d["value"]]], fmt="o", ms=4, capsize=2,
                         color="#2b6cb0", lw=1.2)  # fmt: skip
    changes.set_yticks(range(len(rows)), [key.split("/")[1] for key, _ in rows], fontsize=7)
    changes.axvline(0, color="#a0aec0", ls=":", lw=1)
    changes.set(xlabel="kernel distance minus that of training as it is", title="one choice of training changed")
    for panel in (walks, guidance):
        panel.legend(frameon=False, fontsize=7)
    for panel in (walks, guidance, changes):
        panel.minorticks_off()
    save_figure(sheet, "defaults")


def write() -> None:
    """The tables between the two marks of docs/defaults.md, whose words are written by hand, and the picture."""
    facts = read("defaults")
    if facts is None or "finalists" not in facts["stages"]:
        raise SystemExit("nothing measured yet: python -m benchmarks.defaults train, then measure")
    draw(facts)
    path = DOCS / "defaults.md"
    text = path.read_text() if path.is_file() else f"# Defaults\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    path.write_text(f"{before}{BEGIN}\n{tables(facts)}\n{END}{after}")
    print(path)


BEGIN, END = "<!-- tables: python -m benchmarks.defaults report -->", "<!-- end of tables -->"


def tables(facts: Mapping[str, Any]) -> str:
    """All tables, each under its line."""
    stages = facts["stages"]
    parts = ["\n![solver and grid, guidance, one choice of training changed](defaults.png)\n"]
    lines = {
        "walks": "Every solver on every grid, seed 0, 10 steps:",
        "finalists": "The best of these, all seeds, the mean of 5, 10 and 20 steps:",
        "guidance": "Guidance, all seeds, 10 steps:",
        "longer": "A network trained twice as long, the mean of 5, 10 and 20 steps:",
        "covered": "Networks that were trained at pure noise too (cover 0.02), the mean of 5, 10 and 20 steps:",
        "averages": "Widths of the average, from the snapshots (0.05, the first row, and 0.1 were kept), seed 0, 20 steps:",
        "test, imagenet": "On the test part, in the space that nothing was chosen by, the mean of 5, 10 and 20 steps:",
        "test, patches": "The same samples in the space of the choice:",
    }
    for name, line in lines.items():
        if name in stages:
            parts += [f"{line}\n", stage_table(stages[name]), ""]
    few = {name.split(", ")[1]: stage for name, stage in stages.items() if name.startswith("few, ")}
    if few:
        parts += ["Few steps, and training that comes to pure noise (cover 0.02) or not (0), 120 s, seed 0:\n",
                  few_table(few), ""]  # fmt: skip
    if "changes" in stages:
        parts += ["One choice of training changed, the demo's pictures, seed 0, 20 steps, not guided:\n",
                  changes_table(stages["changes"]), ""]  # fmt: skip
    rows = [
        (
            key,
            str(row["steps"]),
            f"{row['cpu_seconds']:.0f}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['held_out']:.4f}",
        )
        for key, row in facts["trainings"].items()
    ]
    parts += ["The networks:\n", table(("network", "steps", "CPU seconds", "parameters", "held-out loss"), rows), ""]
    return "\n".join(parts)
