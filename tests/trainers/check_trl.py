"""Train with TRL on the exports. Run it with `make check-trl`. It needs torch, so `make test` leaves it out.

A model of two layers with random weights is trained for two steps on each export of a small run: DPO on `preference`,
SFT on `messages`. Nothing is downloaded.

    python tests/trainers/check_trl.py RUN    # a ROOT whose dataset is finished
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset, load_dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.data_utils import is_conversational

REPOSITORY = Path(__file__).resolve().parents[2]
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
STEPS = 2


def export(root: Path, form: str, output: Path) -> Dataset:
    """An export of `root`, loaded from the folder as its card describes it."""
    command = [sys.executable, str(REPOSITORY / "cli.py"), "--root", str(root)]
    subprocess.run([*command, "export", "--format", form, "--output", str(output)], check=True, stdout=sys.stderr)
    return load_dataset(str(output), split="train")


def tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of these texts, with a chat template."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False))
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=made, **names)
    fast.chat_template = TEMPLATE
    return fast


def model(words: PreTrainedTokenizerFast, folder: str) -> str:
    """The folder of a new small model: DPOTrainer reads its reference model from there too."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    path = str(Path(folder) / "model")
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **shape, pad_token_id=words.pad_token_id)).save_pretrained(path)
    return path


def options(folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_strategy": "no",
    }


def check_preference(dataset: Dataset, words: PreTrainedTokenizerFast, folder: str) -> float:
    """Check the conversational preference format with an explicit prompt, which DPOTrainer needs."""
    for row in dataset:
        assert is_conversational(row), row["id"]
        assert row["prompt"][-1]["role"] == "user"
        assert [message["role"] for message in (*row["chosen"], *row["rejected"])] == ["assistant", "assistant"]
        assert row["chosen"] != row["rejected"]
    trainer = DPOTrainer(
        model(words, folder), args=DPOConfig(**options(folder)), train_dataset=dataset, processing_class=words
    )
    return float(trainer.train().training_loss)


def check_messages(dataset: Dataset, words: PreTrainedTokenizerFast, folder: str) -> float:
    assert all(is_conversational(row) for row in dataset)
    trainer = SFTTrainer(
        model(words, folder), args=SFTConfig(**options(folder)), train_dataset=dataset, processing_class=words
    )
    return float(trainer.train().training_loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    root = parser.parse_args().root
    with TemporaryDirectory() as folder:
        chats = export(root, "messages", Path(folder) / "messages")
        words = tokenizer([message["content"] for row in chats for message in row["messages"]])
        pairs = export(root, "preference", Path(folder) / "preference")
        losses = {
            "DPOTrainer on preference": (pairs.num_rows, check_preference(pairs, words, folder)),
            "SFTTrainer on messages": (chats.num_rows, check_messages(chats, words, folder)),
        }
    for name, (rows, loss) in losses.items():
        assert math.isfinite(loss), name
        print(f"{name}: {rows} rows, {STEPS} steps, loss {loss:.3f}")


if __name__ == "__main__":
    main()
