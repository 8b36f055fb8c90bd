"""The options of the command, frozen: every verb and field. A change is made on purpose, and seen in options.txt.

`python -m tests.test_options` writes the list anew.
"""

from __future__ import annotations

from pathlib import Path

from sfumato.cli import _options
from sfumato.jobs import find
from sfumato.jobs.flags import listed, shape
from sfumato.jobs.verbs import VERBS

FILE = Path(__file__).parent / "options.txt"
FIELDS = (
    "autoencoder", "captions", "docking", "failure", "images", "policy", "protein", "series", "tables", "text", "video",
    "weather",
)  # fmt: skip


def lines() -> list[str]:
    """VERB FIELD --OPTION VALUES, a line an option; what has no field of its own stands once, with a dash."""
    found = []
    for verb in VERBS:
        of = {name: _options(verb, name) for name in FIELDS}
        shared = set.intersection(*({(o.name, shape(o.hint)) for o in options} for options in of.values()))
        for name, options in of.items():
            for option in options:
                same = (option.name, shape(option.hint)) in shared
                said = f"{option.path[-1]} {option.shape}" if option.positional else f"{option.flag} {option.shape}"
                found.append(f"{verb} {'-' if same else name} {said}".rstrip())
    for name in FIELDS:
        for word in find.verbs(name):
            for option in listed(find.verb(name, word)):
                found.append(f"{name} {word} {option.flag} {option.shape}".rstrip())
    return sorted(set(found))


def test_options_are_those_that_are_written_down():
    known, now = FILE.read_text(encoding="utf-8").splitlines(), lines()
    gone, new = sorted(set(known) - set(now)), sorted(set(now) - set(known))
    assert not gone, f"gone, which breaks people's commands: {gone}; if that is wanted: python -m tests.test_options"
    assert not new, f"new: {new}; if that is wanted: python -m tests.test_options"


def test_no_option_of_a_verb_has_two_meanings():
    for verb in VERBS:
        for name in FIELDS:
            names = [option.name for option in _options(verb, name)]
            assert len(names) == len(set(names)), f"{verb} {name}"


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n", encoding="utf-8")
