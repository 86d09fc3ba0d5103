"""Write `dataset_info.json` beside an export: the entries by which LLaMA-Factory finds and reads its files.

The keys of an entry are documented in LLaMA-Factory's data/README.md. formats.py has them for each format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from batchgen.dataset.formats import FORMATS
from batchgen.runtime.files import write_durably
from batchgen.runtime.logging_setup import log

DATASET_INFO = "dataset_info.json"

Entry = dict[str, Any]


def write_dataset_info(form: str, output: Path, files: Sequence[Path]) -> list[str]:
    """Add one entry a file to the dataset_info.json of their folder, and return the names of the entries.

    Every other entry stays. For a format that LLaMA-Factory cannot read, the entries that an earlier export wrote for
    the same files are removed. If dataset_info.json holds something else, it is not changed and nothing is returned.
    """
    path = files[0].parent / DATASET_INFO
    known = _entries(path)
    if known is None:
        if FORMATS[form].dataset_info is not None:
            log.warning("%s holds no datasets of LLaMA-Factory: this export is not entered in it.", path)
        return []
    merged, names = dict(known), []
    for file in files:
        name = _name(output, file, merged)
        entry, old = _entry(form, file), merged.get(name, {})
        if entry is None:
            if old in _all_entries(file):
                del merged[name]
            continue
        names.append(name)
        if not entry.items() <= old.items():  # the user may have added keys, such as num_samples
            merged[name] = entry
    if merged != known:
        # ASCII: LLaMA-Factory opens it in the encoding of the locale, and file names may be not UTF-8.
        write_durably(path, [json.dumps(merged, indent=2).encode("ascii") + b"\n"])
    return names


def _entries(path: Path) -> dict[str, Entry] | None:
    """Return the entries of a dataset_info.json, {} if there is none, None if it is something else."""
    try:
        known = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        return None
    fits = isinstance(known, dict) and all(isinstance(entry, dict) for entry in known.values())
    return known if fits else None


def _entry(form: str, file: Path) -> Entry | None:
    """Return the entry of a file in this format, None if LLaMA-Factory cannot read the format."""
    found = FORMATS[form].dataset_info
    return None if found is None else {"file_name": file.name, **found}


def _all_entries(file: Path) -> list[Entry | None]:
    return [_entry(form, file) for form in FORMATS]


def _name(output: Path, file: Path, known: Mapping[str, Entry]) -> str:
    """Return the name of the entry of `file`: that of the output, in a folder with the split.

    A name whose entry is about another file is not taken; the name of the file or a number follows it then.
    """
    stem = output.stem if file == output else f"{output.name}_{file.stem}"
    # Of `dataset: NAME,NAME` LLaMA-Factory splits the names at commas.
    first, second = (re.sub(r"[^\w.-]+", "_", name) for name in (stem, f"{stem}{file.suffix}"))
    wanted = chain((first, second), (f"{second}-{number}" for number in count(2)))
    return next(name for name in wanted if known.get(name, {"file_name": file.name}).get("file_name") == file.name)
