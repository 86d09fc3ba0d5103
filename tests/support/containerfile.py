"""Read a Containerfile, as far as ours goes: instructions over several lines, stages, exec and shell forms."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple


class Instruction(NamedTuple):
    """One instruction: its name in upper case, and the text behind it on one line."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words of the exec form (a JSON list), or of the plain one."""
        if self.text.startswith("["):
            return [str(word) for word in json.loads(self.text)]
        return self.text.split()


class Stage(NamedTuple):
    """What follows one FROM: the base image, the name that later stages use, and the instructions."""

    base: str
    name: str
    instructions: list[Instruction]

    def last(self, name: str) -> Instruction:
        return [one for one in self.instructions if one.name == name][-1]


def stages(path: Path) -> list[Stage]:
    """Return the stages of a Containerfile, in their order."""
    lines = [
        line for line in path.read_text("utf-8").splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    found: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, text = line.partition(" ")
        if name.upper() == "FROM":
            base, _, stage = text.partition(" AS ")
            found.append(Stage(base.strip(), stage.strip(), []))
        else:
            found[-1].instructions.append(Instruction(name.upper(), text.strip()))
    return found
