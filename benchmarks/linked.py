"""How well linked tables are kept: every table drawn at its real size, and its keys, links, rules and rows measured.

    python -m benchmarks.linked RUN [seed] [rows]

RUN is a trained run of linked tables: for docs/tables.md of nycflights13, whose five .csv files lie in a folder beside
nycflights13.yaml, named schema.yaml there (`sfumato train tables FOLDER --steps 5500 --batch 1024 --threads 1`). Printed is
what `sfumato evaluate RUN` prints, of all rows instead of some (or of so many rows of the leading table: planes), and the
processor seconds that drawing and measuring took.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from sfumato.fields.tables.options import TableMeasure
from sfumato.fields.tables.relations import evaluate
from sfumato.jobs.model import load
from sfumato.jobs.walk import Drawing


def main(run: str, seed: str = "0", rows: str = "0") -> None:
    """Print the report."""
    model = load(Path(run), drawing=Drawing(seed=int(seed)))
    lead = model.facts.lead
    began = time.process_time()
    report = evaluate(model, TableMeasure(), int(rows) or (None if lead is None else lead.rows + lead.held))
    print(report.table)
    print(f"{time.process_time() - began:.0f} processor seconds")


if __name__ == "__main__":
    main(*sys.argv[1:])
