"""What is installed, as CycloneDX 1.5 JSON on standard output: name, version, licence, and what needs what."""

from __future__ import annotations

import json
import re
from importlib.metadata import Distribution, distributions


def key(name: str) -> str:
    """A name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def reference(package: Distribution) -> str:
    return f"pkg:pypi/{key(package.metadata['Name'])}@{package.version.replace('+', '%2B')}"


def licence(package: Distribution) -> list[dict[str, object]]:
    said = package.metadata.get("License-Expression")
    if said:
        return [{"expression": said}]
    named = [
        each.rpartition(" :: ")[2]
        for each in package.metadata.get_all("Classifier") or ()
        if each.startswith("License")
    ]
    return [{"license": {"name": name}} for name in named]


def main() -> None:
    every = {key(package.metadata["Name"]): package for package in distributions()}
    components, links = [], []
    for name, package in sorted(every.items()):
        parts = {"type": "library", "bom-ref": reference(package), "name": name, "version": package.version}
        components.append({**parts, "purl": reference(package), "licenses": licence(package)})
        needs = (re.match(r"[\w.-]+", line) for line in package.requires or () if "extra ==" not in line)
        known = {key(found.group()) for found in needs if found} & set(every)
        links.append({"ref": reference(package), "dependsOn": [reference(every[each]) for each in sorted(known)]})
    print(json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components,
                      "dependencies": links}, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
