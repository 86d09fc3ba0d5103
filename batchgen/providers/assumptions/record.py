"""`rehearsal.json`: what a rehearsal has seen and concluded so far. It can be attached to a report."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct, field

from batchgen.core.errors import SetupError
from batchgen.providers.assumptions.evidence import Evidence
from batchgen.runtime.files import write_durably
from batchgen.runtime.logging_setup import redact

FOLDER = "rehearsal"
FILE = "rehearsal.json"


class CheckedAssumption(Struct):
    """One row of the table: whether the assumption is held, broken or not seen yet, and what was seen."""

    provider: str
    name: str
    state: str
    assumes: str
    seen: str
    needed: bool
    source: str


class Record(Struct):
    """The content of `rehearsal.json`. Times are in seconds since 1970 UTC."""

    version: str = ""
    started_at: float = 0.0
    updated_at: float = 0.0
    conversations: int = 0
    finished: bool = False
    models: dict[str, str] = field(default_factory=dict)  # by stage
    spent_usd: float = 0.0
    checks: list[CheckedAssumption] = field(default_factory=list)
    providers: dict[str, Evidence] = field(default_factory=dict)


def record_path(root: Path) -> Path:
    """Return the path of the record of a rehearsal of the run in `root`."""
    return root / FOLDER / FILE


def read_record(root: Path) -> Record | None:
    """Return the record of the run in `root`; None if there is none. Raises SetupError if it cannot be read."""
    path = record_path(root)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise SetupError(
            f"{path}: not a record of a rehearsal ({error}).", do=f"Delete {path.parent}, and rehearse again."
        ) from None


def write_record(root: Path, record: Record) -> None:
    """Write the record durably. Keys are masked."""
    text = msgspec.json.format(msgspec.json.encode(record), indent=1)
    write_durably(record_path(root), [redact(text.decode()).encode(), b"\n"])
