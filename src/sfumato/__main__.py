"""`python -m sfumato`."""

from sfumato.cli import command

command()
