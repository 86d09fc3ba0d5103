"""Read the exports with LLaMA-Factory. Run it with `make check-llamafactory`. It needs torch, so `make test` does not.

LLaMA-Factory's own code finds each file by the dataset_info.json beside it, converts its records and makes the labels
that a model is trained on. The labels must be the texts of the export. Nothing is downloaded, no model is trained.

    python tests/trainers/check_llamafactory.py FOLDER    # with one exported folder a format, named as the format
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import redirect_stdout
from importlib.machinery import ModuleSpec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

os.environ |= {"DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
# LLaMA-Factory imports torchaudio to read sound files. There are none here, and it would bring several GB of CUDA.
sys.modules["torchaudio"] = ModuleType("torchaudio")
sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments, ModelArguments
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Seq2SeqTrainingArguments

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
IGNORED = -100
LONGEST = 1_000_000
SPLITS = {"train": "train_dataset", "test": "eval_dataset"}


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: its tokens are single bytes, so any text comes back as it was."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [], trainers.BpeTrainer(special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    )
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def read(folder: Path, cache: str, words: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The datasets of an exported folder by their split, with labels, as LLaMA-Factory's trainers get them."""
    described = json.loads((folder / "dataset_info.json").read_bytes())
    names = {Path(entry["file_name"]).stem: name for name, entry in described.items()}
    ranking = {entry.get("ranking", False) for entry in described.values()}
    data = DataArguments(
        template="default",
        dataset=names["train"],
        eval_dataset=names["test"],
        dataset_dir=str(folder),
        cutoff_len=LONGEST,
        overwrite_cache=True,
    )
    model = ModelArguments(model_name_or_path="none", cache_dir=cache)
    training = Seq2SeqTrainingArguments(output_dir=cache, use_cpu=True, report_to=[], disable_tqdm=True)
    template = get_template_and_fix_tokenizer(words, data)
    with redirect_stdout(StringIO()):  # it prints an example with all its tokens
        found = get_dataset(template, model, data, training, "rm" if ranking == {True} else "sft", words)
    return {split: found[part] for split, part in SPLITS.items()}


def learned(words: PreTrainedTokenizerFast, labels: list[int]) -> str:
    """The text of the labels that count."""
    return str(words.decode([each for each in labels if each != IGNORED]))


def expected(form: str, record: dict[str, Any]) -> dict[str, str]:
    """The text that each column of labels must have: every text that is learned, with its end."""
    if form == "llamafactory":
        return {f"{side}_labels": f"{record[side]['value']}</s>\n" for side in ("chosen", "rejected")}
    if form == "aligner":
        return {"labels": f"{record['correction']}</s>\n"}
    column, content = {"messages": ("messages", "content"), "sharegpt": ("conversations", "value")}[form]
    return {"labels": "".join(f"{message[content]}</s>\n" for message in record[column][1::2])}


def shown(form: str, record: dict[str, Any]) -> list[str]:
    """The texts that the model must be shown before it answers."""
    if form == "aligner":
        return [f"Human: {record['question']}\n{record['answer']}</s>"]
    if form == "messages":
        return [f"Human: {message['content']}</s>" for message in record["messages"][::2]]
    return [f"Human: {message['value']}</s>" for message in record["conversations"][::2]]


def check(form: str, folder: Path, words: PreTrainedTokenizerFast) -> dict[str, int]:
    """Compare every record of an exported folder with what LLaMA-Factory makes of it. Returns the rows by split."""
    with TemporaryDirectory() as cache:
        rows = {}
        for split, dataset in read(folder, cache, words).items():
            records = [json.loads(line) for line in (folder / f"{split}.jsonl").read_bytes().splitlines()]
            assert dataset.num_rows == len(records) > 0, (form, split, dataset.num_rows, len(records))
            for record, row in zip(records, dataset, strict=True):
                wanted = expected(form, record)
                assert {name: learned(words, row[name]) for name in wanted} == wanted, (form, record["id"])
                text = words.decode(row["chosen_input_ids" if form == "llamafactory" else "input_ids"])
                assert all(question in text for question in shown(form, record)), (form, record["id"])
            rows[split] = len(records)
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    exports = sorted(path.parent for path in parser.parse_args().folder.glob("*/dataset_info.json"))
    words = tokenizer()
    for folder in exports:
        print(f"{folder.name}: {check(folder.name, folder, words)}")
    assert {folder.name for folder in exports} == {"messages", "sharegpt", "llamafactory", "aligner"}


if __name__ == "__main__":
    main()
