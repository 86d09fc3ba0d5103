"""Where seeds come from: a path, or a dataset on the Hugging Face hub."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from batchgen.core.errors import InputError
from batchgen.dataset.seeds import SUPPORTED_FILES_HINT, file_format

DATASET_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DATASET_FILES = {"aligner/aligner-20K": "train.jsonl.xz"}


def resolve(source: str) -> Path:
    """Return the local file of a path or of a Hugging Face dataset id "owner/name".

    A path that exists is taken first, and what looks like a path is never looked for on the hub. huggingface_hub
    downloads the file into its cache and obeys HF_ENDPOINT, HF_HOME and HF_TOKEN. Raises InputError if nothing usable
    is found or the hub cannot be reached.
    """
    if os.path.exists(source):  # noqa: PTH110 - Path.exists raises for a name that is too long
        return Path(source)
    if source.startswith((".", "/", "~")) or file_format(source) or not DATASET_ID.fullmatch(source):
        raise InputError(f"{source!r}: no such file.", do="Give a path, or a Hugging Face dataset id like owner/name.")
    return _download_dataset(source)


def _download_dataset(dataset: str) -> Path:
    from httpx2 import HTTPError  # huggingface_hub does not translate it
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    logging.getLogger("huggingface_hub").handlers.clear()  # its own handler would print each line twice
    api = HfApi()
    name, revision = DATASET_FILES.get(dataset), None
    try:
        if name is None:
            info = api.dataset_info(dataset, timeout=30.0)
            name, revision = train_file(dataset, (file.rfilename for file in info.siblings or [])), info.sha
        return Path(api.hf_hub_download(dataset, name, repo_type="dataset", revision=revision))
    except RepositoryNotFoundError:
        do = "Check the spelling; a private or gated dataset needs HF_TOKEN."
        raise InputError(f"{dataset!r} is neither a file here nor a dataset that the hub shows.", do=do) from None
    except (HTTPError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        do = "Try again, set HF_ENDPOINT to a mirror, or fetch the file yourself and give its path."
        raise InputError(f"{dataset} could not be fetched: {why}", do=do) from None


def train_file(dataset: str, names: Iterable[str]) -> str:
    """Return the first train* file of a supported format. Raises InputError if there is none."""
    trains = sorted(name for name in names if PurePosixPath(name).name.startswith("train") and file_format(name))
    if not trains:
        raise InputError(f"The dataset {dataset} has no train file of a supported format.", do=SUPPORTED_FILES_HINT)
    if len(trains) > 1:
        logging.getLogger(__name__).warning("%s has %d train files; only %s is read.", dataset, len(trains), trains[0])
    return trains[0]
