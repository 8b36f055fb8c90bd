"""The extras of the package: those of pyproject.toml, and for each field its requires.txt, as sfumato[NAME]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Extras(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        files = sorted(Path(self.root, "src/sfumato/fields").glob("*/requires.txt"))
        fields = {file.parent.name: list(filter(None, map(str.strip, file.read_text().splitlines()))) for file in files}
        metadata["optional-dependencies"] = {**fields, **self.config["extras"]}
