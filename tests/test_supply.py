"""What the package is made of: every pin has its hashes, every need its pin, and the list of parts is whole."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import sfumato

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    return {key(name): version for name, version in PIN.findall((ROOT / file).read_text())}


def test_the_locked_list_is_that_of_the_constraints_and_every_pin_has_hashes():
    assert pins("locked.txt") == pins("constraints.txt"), "make lock"
    for entry in re.split(r"\n(?=[A-Za-z0-9])", (ROOT / "locked.txt").read_text().strip()):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.split()[0]


def test_every_need_is_pinned_and_every_import_is_a_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needs = {key(re.split(r"[^\w.-]", line)[0]) for line in project["project"]["dependencies"]}
    assert needs <= set(pins("constraints.txt"))
    assert len(needs) <= 8
    named = {"yaml": "pyyaml", "PIL": "pillow"}
    brought = {"sfumato", *sys.stdlib_module_names}
    for path in Path(sfumato.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:  # what is imported when the module is, not inside functions
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in (each.split(".")[0] for each in modules):
                optional = (
                    "serving" in path.parts
                    or "simulators" in path.parts
                    or "demonstrations" in path.parts
                    or "openmoji" in path.name
                )
                assert module in brought or key(named.get(module, module)) in needs or optional, f"{path}: {module}"


def test_the_list_of_parts_names_what_is_installed():
    done = subprocess.run([sys.executable, str(ROOT / ".ci" / "sbom.py")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    versions = {part["name"]: part["version"] for part in found["components"]}
    import numpy

    assert versions["numpy"] == numpy.__version__
    references = {part["bom-ref"] for part in found["components"]}
    for link in found["dependencies"]:
        assert {link["ref"], *link["dependsOn"]} <= references
    torch = next(link for link in found["dependencies"] if link["ref"].startswith("pkg:pypi/torch@"))
    assert any(each.startswith("pkg:pypi/sympy@") for each in torch["dependsOn"])
