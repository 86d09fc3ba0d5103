"""Where seeds come from: a path, or a dataset on the Hugging Face hub."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from batchgen.core.errors import InputError
from batchgen.dataset.rows.row_files import SUPPORTED_FILES_HINT, file_format

DATASET_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DATASET_FILES = {"aligner/aligner-20K": "train.jsonl.xz"}
PART_NUMBER = re.compile(r"[-_.]\d+(?:-of-\d+)?(?=\.)")  # train-00000-of-00003.parquet, train-0.jsonl
MOST_FILES = 5  # files that an error message lists


def resolve(source: str, file: str = "") -> list[Path]:
    """Return the local files of a path or of a Hugging Face dataset id "owner/name", in the order to read them.

    A path that exists is taken first, and what looks like a path is never looked for on the hub. huggingface_hub
    downloads the files into its cache and obeys HF_ENDPOINT, HF_HOME and HF_TOKEN. `file` names one file of a dataset
    or folder, or several by a pattern with *. Raises InputError if nothing usable is found or the hub cannot be
    reached.
    """
    if os.path.exists(source):  # noqa: PTH110 - Path.exists raises for a name that is too long
        return _files_of_folder(Path(source), file)
    if source.startswith((".", "/", "~")) or file_format(source) or not DATASET_ID.fullmatch(source):
        raise InputError(f"{source!r}: no such file.", do="Give a path, or a Hugging Face dataset id like owner/name.")
    return _download_dataset(source, file)


def _files_of_folder(path: Path, file: str) -> list[Path]:
    if not path.is_dir():
        if file:
            raise InputError(f"{path} is a file: --file takes one of a folder or dataset.", do="Leave --file out.")
        return [path]
    if not file:
        raise InputError(f"{path} is a directory.", do=_which_file(path))
    names = [each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()]
    return [path / name for name in named_files(str(path), names, file)]


def _which_file(folder: Path) -> str:
    """Return which file of a folder to suggest: the train file, the only file of a known format, or a choice."""
    usable = sorted(each.name for each in folder.iterdir() if file_format(each.name) and each.is_file())
    names = [name for name in usable if name.startswith("train")] or usable
    if not names:
        return f"It has no file of a supported format. {SUPPORTED_FILES_HINT}"
    if len(names) == 1:
        return f"Name the file: --input {shlex.quote(str(folder / names[0]))}"
    return f"Name one of its files: {_first_few(names)}"


def _first_few(names: list[str]) -> str:
    return f"{', '.join(names[:MOST_FILES])}{', ...' if len(names) > MOST_FILES else '.'}"


def _download_dataset(dataset: str, file: str) -> list[Path]:
    from httpx2 import HTTPError, InvalidURL  # huggingface_hub does not translate them
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    logging.getLogger("huggingface_hub").handlers.clear()  # its own handler would print each line twice
    api = HfApi()
    names, revision = [DATASET_FILES.get(dataset, "")], None
    try:
        if file or not names[0]:
            info = api.dataset_info(dataset, timeout=30.0)
            found, revision = [each.rfilename for each in info.siblings or []], info.sha
            names = named_files(dataset, found, file) if file else train_files(dataset, found)
        return [Path(api.hf_hub_download(dataset, name, repo_type="dataset", revision=revision)) for name in names]
    except RepositoryNotFoundError:
        do = "Check the spelling; a private or gated dataset needs HF_TOKEN."
        raise InputError(f"{dataset!r} is neither a file here nor a dataset that the hub shows.", do=do) from None
    except (HTTPError, InvalidURL, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        do = "Try again, set HF_ENDPOINT to a mirror, or fetch the file yourself and give its path."
        raise InputError(f"{dataset} could not be fetched: {why}", do=do) from None


def named_files(source: str, names: Iterable[str], file: str) -> list[str]:
    """Return the file of this name, or all that a pattern with * matches. Raises InputError if there is none."""
    usable = _in_order(name for name in names if file_format(name))
    found = [name for name in usable if name == file] or [name for name in usable if fnmatchcase(name, file)]
    if not found:
        do = f"It has {_first_few(usable)}" if usable else SUPPORTED_FILES_HINT
        raise InputError(f"{source} has no file {file!r} of a supported format.", do=do)
    return found


def train_files(dataset: str, names: Iterable[str]) -> list[str]:
    """Return the first train* file of a supported format with all of its parts. Raises InputError if there is none.

    Train files of other names or folders are other splits, or the same rows once more: a warning names them.
    """
    trains = _in_order(name for name in names if PurePosixPath(name).name.startswith("train") and file_format(name))
    if not trains:
        raise InputError(f"The dataset {dataset} has no train file of a supported format.", do=SUPPORTED_FILES_HINT)
    parts = [name for name in trains if _whole_name(name) == _whole_name(trains[0])]
    if others := [name for name in trains if name not in parts]:
        told = "%s: only %s is read; --file takes another: %s"
        logging.getLogger(__name__).warning(told, dataset, _whole_name(trains[0]), _first_few(others))
    return parts


def _whole_name(name: str) -> str:
    """Return the name of a file without its part number."""
    path = PurePosixPath(name)
    return str(path.with_name(PART_NUMBER.sub("", path.name)))


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort names, the parts of a file by number: train-2 before train-10."""
    return sorted(
        names, key=lambda name: (_whole_name(name), [int(digits) for digits in re.findall(r"\d+", name)], name)
    )
