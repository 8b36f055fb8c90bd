"""Nothing here runs code from a file, and looking at the command loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sfumato
from sfumato.data import DataError, open_array
from sfumato.training import checkpoint

ROOM = Path(sfumato.__file__).parent
SOURCES = sorted(ROOM.rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "subprocess", "code"}
CALLS = {"torch.load", "torch.save", "torch.hub.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all",
         "os.system", "os.popen", "eval", "exec", "compile", "__import__"}  # fmt: skip


def dotted(node: ast.AST) -> str:
    """`a.b.c` as text; empty for anything else."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def offences(text: str) -> list[str]:
    """What in a source could run code that came from a file."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [f"import {name.name}" for name in node.names if name.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                found.append(f"from {node.module}")
            found += [f"from {node.module} import {n.name}" for n in node.names if f"{node.module}.{n.name}" in CALLS]
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in CALLS:
                found.append(f"{name}()")
            arrays = name in ("np.load", "numpy.load", "np.lib.format.read_array")
            if arrays and not any(word.arg == "allow_pickle" for word in node.keywords):
                found.append(f"{name}() without allow_pickle=False")
            for word in node.keywords:
                risky = word.arg in ("allow_pickle", "trust_remote_code", "shell")
                if risky and not (isinstance(word.value, ast.Constant) and word.value.value is False):
                    found.append(f"{word.arg}= in {name}()")
    return found


KNOWN = {"metrics/imagenet.py": ["torch.load()"]}
"""The file of an installed package, of bytes whose SHA-256 stands in the source, read as tensors alone."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOM)))
def test_no_source_can_run_code_from_a_file(path: Path):
    assert offences(path.read_text()) == KNOWN.get(path.relative_to(ROOM).as_posix(), [])


def test_the_one_torch_load_takes_tensors_alone():
    text = (ROOM / "metrics" / "imagenet.py").read_text()
    (call,) = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and dotted(n.func) == "torch.load"]
    assert {word.arg: ast.unparse(word.value) for word in call.keywords}["weights_only"] == "True"


@pytest.mark.parametrize("text", [
    "import pickle", "from pickle import loads", "import torch\ntorch.load('x')", "import yaml\nyaml.load('x', Loader=None)",
    "from torch import load", "from yaml import unsafe_load", "eval('1')", "exec('1')", "np.load('x')",
    "np.load('x', allow_pickle=True)",
    "torch.load('x', weights_only=True)", "torch.load('x', weights_only=flag)",
    "np.load('x', allow_pickle=flag)", "run(shell=True)", "torch.save(1, 'x')", "import os\nos.system('ls')",
])  # fmt: skip
def test_the_search_finds_what_it_looks_for(text: str):
    assert offences(text)


@pytest.mark.parametrize(
    "text",
    [
        "np.load('x', allow_pickle=False)",
        "model.eval()",
        "re.compile('x')",
        "torch.compile(f)",
    ],
)
def test_the_search_leaves_the_rest_alone(text: str):
    assert offences(text) == []


def test_there_are_sources():
    assert len(SOURCES) > 30


@pytest.mark.parametrize(("module", "absent"), [
    ("sfumato.cli", "torch numpy PIL matplotlib safetensors scipy"), ("sfumato.training.options", "torch numpy"),
    ("sfumato.jobs.strict", "torch numpy"), ("sfumato.data", "torch matplotlib scipy"),
    ("sfumato.jobs.train", "torch matplotlib"), ("sfumato.diffusion", "yaml rich PIL matplotlib scipy safetensors"),
])  # fmt: skip
def test_a_module_brings_only_what_it_needs(module: str, absent: str):
    code = f"import sys, {module}; print(*sorted(set({absent.split()!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_the_options_of_no_field_need_torch():
    """Each in turn, those of other packages too: what does is imported inside methods."""
    code = (
        "import sys\nfrom sfumato.jobs import find\n"
        "for name in find.names():\n    find.kind(name); find.verbs(name)\n    print(name, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith("True")] == []
    assert len(done.stdout.splitlines()) >= 2


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened(tmp_path: Path):
    import pickle

    canary, trap = tmp_path / "canary", tmp_path / "trap"
    data = pickle.dumps(Trap(canary))
    objects = np.array([Trap(canary), Trap(canary)], dtype=object)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=objects)
    trap.mkdir()
    for name in ("data.npy", "data.npz", "step-00000001"):
        (tmp_path / name).write_bytes(data)
    for name in ("objects.npy", "objects.npz", "data.npy", "data.npz"):
        with pytest.raises(DataError):
            open_array(tmp_path / name)
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.read_tensors(tmp_path / "data.npy")
    (trap / "step-00000001").mkdir()
    for name in ("manifest.json", "meta.json", "network.safetensors"):
        (trap / "step-00000001" / name).write_bytes(data)
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.load(trap / "step-00000001")
    assert checkpoint.newest(trap)[0] is None
    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists()  # the trap works


AUDITED = """
import sys
from pathlib import Path
from sfumato.cli import main
import torch._dynamo, torch.utils.tensorboard, matplotlib.figure, matplotlib.font_manager
seen = []
ACTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork")
def hook(event, arguments):
    if event.split(".")[0] in ("socket", "subprocess", "pickle") or event in ACTS:
        seen.append((event, str(arguments)[:200]))
field, data, out = sys.argv[1:]
sys.addaudithook(hook)
small = {
    "images": ["--side", "8", "--network.width", "32", "--network.depth", "2", "--held-out", "0.4"],
    "tables": ["--width", "16", "--depth", "1"], "text": ["--vocab", "300", "--window", "16", "--network.width", "32"],
}[field] + ["--batch", "8", "--steps", "3", "--threads", "1"]
to = out + {"images": "-s", "tables": "-s.csv", "text": "-s"}[field]
codes = [main(["train", field, data, *small, "--out", out]), main(["resume", out, "--steps", "5"]),
         main(["sample", out, "-n", "2", "--steps", "2", "--out", to])]
codes += [main(["evaluate", out, "--steps", "2"]) if field == "images" else 0]
seen = [event for event in seen if event[0] != "socket.gethostname"]  # tensorboard puts it into its file's name
print("CODES", codes)
print("SEEN", seen)
"""


@pytest.mark.slow
@pytest.mark.parametrize("field", ["images", "tables", "text"])
def test_a_local_run_opens_no_socket_and_starts_no_process(field: str, tmp_path: Path):
    from tests.jobs.small import write_pictures

    data = tmp_path / {"images": "photos", "tables": "people.csv", "text": "code"}[field]
    if field == "images":
        write_pictures(data, 40)
    elif field == "tables":
        data.write_text("age,sex\n" + "".join(f"{20 + i % 50},{'fm'[i % 2]}\n" for i in range(120)))
    else:
        pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")
        data.mkdir()
        for i in range(20):
            (data / f"{i}.py").write_text(f"value_{i} = {i * i}\n" * (3 + i))
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, field, str(data), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "CODES [0, 0, 0, 0]" in done.stdout, done.stderr
    assert "SEEN []" in done.stdout
