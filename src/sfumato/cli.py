"""The `sfumato` command: parse, call, print. Nothing here or in what it parses imports torch before work begins."""

from __future__ import annotations

import atexit
import errno
import os
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NoReturn

from sfumato.errors import Mendable, Wrong
from sfumato.jobs import find, foreign, manual
from sfumato.jobs.config import Configuration, field_of
from sfumato.jobs.flags import Option, listed
from sfumato.jobs.parsing import Misspelt, parse
from sfumato.jobs.recipe import Nothing, say
from sfumato.jobs.strict import LONGEST, ConfigError
from sfumato.jobs.training_verbs import Train
from sfumato.jobs.verbs import CALLS, DESCRIPTION, EXAMPLES, GROUPS, VERBS
from sfumato.training.telling import columns, fold

# ---- which options -------------------------------------------------------------------------------------------------------


def _parts(verb: str, name: str | None) -> dict[str, type]:
    """What the recipe, ask and measure of a verb are in a field; nothing is asked of no field."""
    kind = None if name is None else find.kind(name)
    if verb in ("train", "inspect"):
        return {"recipe": kind or find.kind(find.plain())}
    if verb == "sample":
        return {"ask": Nothing if kind is None else kind.Ask}
    if verb == "evaluate":
        return {"measure": Nothing if kind is None else kind.Measure, "ask": Nothing if kind is None else kind.Ask}
    return {}


def _options(verb: str, name: str | None) -> tuple[Option, ...]:
    return listed(VERBS[verb], _parts(verb, name))


def _page(verb: str, name: str | None, run: Path | None) -> manual.Page:
    """The help of a verb, for a field where one is named."""
    call = f"sfumato {verb} {CALLS.get(verb, '')}".strip()
    more: tuple[str, ...] = ()
    if verb in ("train", "inspect"):
        others = [other for other in find.names() if other != (name or find.plain())]
        call = f"sfumato {verb} {name} PATH" if name else call
        more = (f"Other fields: {', '.join(others)} (sfumato {verb} FIELD --help)",)
    elif verb in ("sample", "evaluate") and run is None:
        more = (f"What a run of yours can be asked for besides: sfumato {verb} RUN --help",)
    elif run is not None:
        more = (f"What a {name} run can be asked for is shown: {run}",)
    groups = GROUPS.get(verb, (("options", tuple(option.name for option in _options(verb, name))),))
    return manual.Page(
        f"{call} [options]", manual.first(VERBS[verb]), groups, EXAMPLES.get(verb, ()) if not name else (), more
    )


def _help(verb: str, name: str | None, run: Path | None, everything: bool) -> str:
    options, page = _options(verb, name), _page(verb, name, run)
    if everything:
        return manual.whole(page, options)
    field_ = name or (find.plain() if verb in ("train", "inspect") else "")
    common = {each for _, names in GROUPS.get(verb, ()) for each in names}
    own = [o for o in options if o.path[0] in ("recipe", "ask", "measure") and len(o.path) == 2 and not o.positional]
    return manual.short(page, options, [o for o in own if o.name not in common], f"of {field_}")


def _unknown(verb: str, options: Sequence[Option], words: Sequence[str]) -> Any:
    """Says what a word should have been, for one that is no option of the verb."""

    def said(word: str) -> str:
        first = ("train", "sample", "evaluate")
        others = {each: _options(each, find.plain()) for each in (*first, *VERBS) if each != verb}
        return foreign.advice(verb, word, options, others, words)

    return said


# ---- what the words mean -------------------------------------------------------------------------------------------------


def _field(arguments: Sequence[str]) -> str | None:
    """The field that `train` or `inspect` names before its data; the name of a file alone is the data."""
    if arguments[0] not in ("train", "inspect") or len(arguments) < 2 or arguments[1] not in find.names():
        return None
    more = len(arguments) > 2 and (not arguments[2].startswith("-") or arguments[2] in HELP)
    return arguments[1] if more or not Path(arguments[1]).exists() else None


def _run(arguments: Sequence[str]) -> Path | None:
    """The run that a verb is given: the first word that is one and not the value of an option."""
    runs = [i for i, word in enumerate(arguments) if i and not word.startswith("-") and field_of(Path(word))]
    runs.sort(key=lambda i: arguments[i - 1].startswith("-"))
    return Path(arguments[runs[0]]) if runs else None


def _with_config(words: Sequence[str], name: str | None) -> Train | None:
    """The options of ``train --config FILE``, as the defaults of the command line."""
    given = [word.partition("=")[2] for word in words if word.startswith(("--config=", "config="))]
    given += [word for before, word in zip(words, [*words[1:], ""]) if before == "--config"]
    if words[0] != "train" or not given:
        return None
    path = Path(given[-1])
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason}); --config wants a YAML file") from error
    base = Configuration(find.kind(name or find.plain())(MISSING))
    found = Configuration.from_yaml(text, str(path), base)
    if name and find.name_of(found.recipe) != name:
        raise Wrong(f"{path}: is of the recipe {find.name_of(found.recipe)}, not {name}; leave the name out")
    return Train(found.recipe, found.training, config=path)


HELP = ("-h", "--help", "--help-all")


def _own_verb(arguments: Sequence[str]) -> Any:
    """One of a field's own verbs, `FIELD VERB`, ready to be called; nothing where the words are not of that kind."""
    if arguments[0] in VERBS:
        return None
    if arguments[0] in find.names():
        name, word, rest = arguments[0], "".join(arguments[1:2]), arguments[2:]
        if word in ("", *HELP):
            known = find.verbs(name)
            own = f"{{{','.join(known)}}} ..." if known else "has no verbs of its own"
            _leave(f"usage: sfumato {name} {own}\n\n{find.line(name)}\nIts options: sfumato train {name} --help",
                   0 if word else 2)  # fmt: skip
    else:  # a verb alone, as before fields had verbs of their own
        word, rest = arguments[0], arguments[1:]
        owner = find.having(word)
        if owner is None:
            return None
        name = owner
        say(f"sfumato {word} is now `sfumato {name} {word}`; the old name goes with the next version")
    verb = find.verb(name, word)
    options = listed(verb)
    if any(each in HELP for each in rest):
        places = " ".join(o.shape for o in options if o.positional)
        page = manual.Page(f"sfumato {name} {word} {places} [options]", manual.first(verb))
        _leave(manual.whole(page, options), 0)
    return parse(verb, rest, unknown=lambda each: foreign.advice(f"{name} {word}", each, options, {}, rest))


def _leave(text: str, code: int) -> None:
    print(text, file=sys.stderr if code else sys.stdout)
    raise SystemExit(code)


def _parse(given: Sequence[str]) -> Any:
    """The command that the words mean, ready to be called."""
    if not given or given[0] in HELP:
        verbs = [(name, manual.first(kind)) for name, kind in VERBS.items()]
        fields = [(name, find.line(name)) for name in find.names()]
        _leave(manual.overview(DESCRIPTION, verbs, fields), 0 if given else 2)
    if given[0] in ("--version", "-V", "version"):
        from sfumato import __version__

        _leave(f"sfumato {__version__}", 0)
    own = _own_verb(given)
    if own is not None:
        return own
    verb = given[0]
    if verb not in VERBS:
        raise Misspelt(foreign.verb_advice(verb, list(VERBS), find.names()))
    name, run = _field(given), None
    words = [*given[:1], *given[2:]] if name else list(given)
    if verb in ("sample", "evaluate"):
        run = _run(words)
        name = field_of(run) if run else None
    before = words[: words.index("--")] if "--" in words else words
    asked = next((word for word in before if word in HELP), None)
    if asked:
        _leave(_help(verb, name, run, asked == "--help-all"), 0)
    base = _with_config(words, name)
    if base is not None:
        name = find.name_of(base.recipe)
    parts: Mapping[str, type] = _parts(verb, name or find.plain())
    options = listed(VERBS[verb], parts)
    return parse(VERBS[verb], words[1:], parts, base, _unknown(verb, options, words))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status. Errors a user can mend are one line on standard error; words that are not
    understood leave with status 2."""
    try:
        return int(_parse(sys.argv[1:] if arguments is None else list(arguments))())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except Misspelt as error:
        _complain(error)
        raise SystemExit(2) from None
    except (Mendable, FileNotFoundError, PermissionError) as error:
        _complain(error)
        code = getattr(error, "code", None)
        return code if isinstance(code, int) else 1
    except OSError as error:
        if error.errno not in FULL:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _complain(f"{place}cannot be written ({error.strerror}); free some space, or write elsewhere with --out")
        return 1


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What a disk says that takes no more."""


def _complain(error: object) -> None:
    """One line on standard error; a terminal gets it folded."""
    text = f"sfumato: {error}"
    print(fold(text, columns(sys.stderr)) if sys.stderr.isatty() else text, file=sys.stderr)


def command() -> NoReturn:
    """The command as a process: its status is the process's, whatever threads of others are still doing. One that is in the
    middle of C++ as Python ends (a tracker that still loads) would abort it: "terminate called without an active exception"."""
    # torch 2.14 says this of itself, once a process, where forward-mode derivatives begin
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    code = main()
    here = threading.current_thread()
    others = [each for each in threading.enumerate() if each is not here]
    for each in others:
        if not each.daemon:
            each.join()
    if (
        not others and os.environ.get("WORLD_SIZE", "1") == "1"
    ):  # several processes have threads that Python does not know
        raise SystemExit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    command()
