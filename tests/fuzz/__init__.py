"""Damaged files, thousands of them, through every reader: each is read, or refused in one line of ours that names it.

`python -m tests.fuzz --number 20000 --seed 0`; `--only N` does one again. `mutate` damages; `data`, `runs` and `recordings` make
whole files and read them, as `kinds` lists them; `judge` decides what a reading came to, `watch` keeps the readers in a process
of their own.
"""
