"""Formats that trainers read, each a pure function from a finished dialogue to one record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import polars as pl

from batchgen.core.dialogue import STAGES, Turn
from batchgen.dataset.quality.flags import LABELS

_ORDER = {label: place for place, label in enumerate(LABELS)}


class FlaggedConversation(NamedTuple):
    """A finished conversation: id, turns, the labels of each turn, and the model of each text (None: the seed)."""

    identity: str
    turns: tuple[Turn, ...]
    labels: tuple[tuple[str, ...], ...]
    models: tuple[str | None, ...]

    def until(self, number: int) -> FlaggedConversation:
        """Return the dialogue as it was after round `number`."""
        return FlaggedConversation(
            self.identity, self.turns[:number], self.labels[:number], self.models[: number * len(STAGES)]
        )

    def flags(self) -> list[str]:
        """Return every label of any turn, once, in the order of flags.LABELS."""
        return sorted({label for labels in self.labels for label in labels}, key=_ORDER.__getitem__)


class Format(NamedTuple):
    """A format: its columns, and whether one record is a `turn` with its history or a whole conversation.

    `same` returns whether the last turn teaches nothing in this format: its two replies are equal. `dataset_info` is
    what LLaMA-Factory's dataset_info.json says about such a file, besides its name; None if LLaMA-Factory cannot read
    the format.
    """

    per_turn: bool
    meaning: str
    record: Callable[[FlaggedConversation], dict[str, Any]]
    schema: Callable[[int], pl.Schema]
    tags: tuple[str, ...] = ()
    same: Callable[[FlaggedConversation], bool] = lambda _: False
    dataset_info: Mapping[str, Any] | None = None

    def units(self, dialogue: FlaggedConversation) -> Iterator[FlaggedConversation]:
        """Return what each record is made of: the whole dialogue, or the dialogue up to each of its turns."""
        if self.per_turn:
            yield from (dialogue.until(number) for number in range(1, len(dialogue.turns) + 1))
        else:
            yield dialogue

    def labels(self, unit: FlaggedConversation) -> list[str]:
        """Return the labels that concern a record: those of its turn, or of all turns."""
        return list(unit.labels[-1]) if self.per_turn else unit.flags()


def chat_messages(turns: tuple[Turn, ...]) -> list[dict[str, str]]:
    """Return turns as chat messages; the corrections are the messages of the assistant."""
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in (("user", turn.question), ("assistant", turn.correction))
    ]


def _messages(dialogue: FlaggedConversation) -> dict[str, Any]:
    return {"id": dialogue.identity, "messages": chat_messages(dialogue.turns), "flags": dialogue.flags()}


def _sharegpt_turns(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    speakers = {"user": "human", "assistant": "gpt"}
    return [{"from": speakers[each["role"]], "value": each["content"]} for each in messages]


def _sharegpt(dialogue: FlaggedConversation) -> dict[str, Any]:
    return {"id": dialogue.identity, "conversations": _sharegpt_turns(chat_messages(dialogue.turns))}


def _preference(dialogue: FlaggedConversation) -> dict[str, Any]:
    *before, turn = dialogue.turns
    return {
        "prompt": [*chat_messages(tuple(before)), {"role": "user", "content": turn.question}],
        "chosen": [{"role": "assistant", "content": turn.correction}],
        "rejected": [{"role": "assistant", "content": turn.answer}],
        "id": dialogue.identity,
        "round": len(dialogue.turns),
    }


def _llamafactory(dialogue: FlaggedConversation) -> dict[str, Any]:
    pair = _preference(dialogue)
    (chosen,), (rejected,) = _sharegpt_turns(pair["chosen"]), _sharegpt_turns(pair["rejected"])
    return {
        "conversations": _sharegpt_turns(pair["prompt"]),
        "chosen": chosen,
        "rejected": rejected,
        "id": pair["id"],
        "round": pair["round"],
    }


def _chosen_is_rejected(dialogue: FlaggedConversation) -> bool:
    turn = dialogue.turns[-1]
    return turn.correction == turn.answer


def question_with_history(turns: tuple[Turn, ...]) -> str:
    """Return the last question with its history: "USER: ...", "ASSISTANT: ..." on lines of their own.

    Without history it is the question alone, as in aligner-20K.
    """
    *before, turn = turns
    if not before:
        return turn.question
    speakers = {"user": "USER", "assistant": "ASSISTANT"}
    said = [f"{speakers[each['role']]}: {each['content']}" for each in chat_messages(tuple(before))]
    return "\n".join([*said, f"USER: {turn.question}"])


def _aligner(dialogue: FlaggedConversation) -> dict[str, Any]:
    turn = dialogue.turns[-1]
    return {
        "question": question_with_history(dialogue.turns),
        "answer": turn.answer,
        "correction": turn.correction,
        "id": dialogue.identity,
        "round": len(dialogue.turns),
    }


def _parquet_record(dialogue: FlaggedConversation) -> dict[str, Any]:
    texts = dict(zip(Turn._fields, map(list, zip(*dialogue.turns, strict=True)), strict=True))
    models = {f"{stage}_models": list(dialogue.models[place :: len(STAGES)]) for place, stage in enumerate(STAGES)}
    return {"id": dialogue.identity, **texts, "flags": dialogue.flags(), **models}


Columns = dict[str, pl.DataType]

_TEXT, _TEXTS, _NUMBER = pl.String(), pl.List(pl.String()), pl.Int64()
_MESSAGE = pl.List(pl.Struct({"role": _TEXT, "content": _TEXT}))
_SHAREGPT_TURN = pl.Struct({"from": _TEXT, "value": _TEXT})
_MESSAGES: Columns = {"id": _TEXT, "messages": _MESSAGE, "flags": _TEXTS}
_SHAREGPT: Columns = {"id": _TEXT, "conversations": pl.List(_SHAREGPT_TURN)}
_PREFERENCE: Columns = {**dict.fromkeys(("prompt", "chosen", "rejected"), _MESSAGE), "id": _TEXT, "round": _NUMBER}
_LLAMAFACTORY: Columns = {
    "conversations": pl.List(_SHAREGPT_TURN),
    **dict.fromkeys(("chosen", "rejected"), _SHAREGPT_TURN),
    "id": _TEXT,
    "round": _NUMBER,
}
_ALIGNER: Columns = {**dict.fromkeys(Turn._fields, _TEXT), "id": _TEXT, "round": _NUMBER}


def _parquet_schema(rounds: int) -> pl.Schema:
    array = pl.Array(_TEXT, rounds)
    models = dict.fromkeys((f"{stage}_models" for stage in STAGES), array)
    columns: Columns = {"id": _TEXT, **dict.fromkeys(Turn._fields, array), "flags": _TEXTS, **models}
    return pl.Schema(columns)


FORMATS: Mapping[str, Format] = {
    "messages": Format(
        per_turn=False,
        meaning="one conversation a row as chat messages; the assistant's messages are the corrections",
        record=_messages,
        schema=lambda _: pl.Schema(_MESSAGES),
        tags=("conversational", "sft"),
        dataset_info={
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        },
    ),
    "sharegpt": Format(
        per_turn=False,
        meaning="one conversation a row as ShareGPT turns; the messages of gpt are the corrections",
        record=_sharegpt,
        schema=lambda _: pl.Schema(_SHAREGPT),
        tags=("conversational", "sft", "sharegpt"),
        dataset_info={"formatting": "sharegpt", "columns": {"messages": "conversations"}},
    ),
    "preference": Format(
        per_turn=True,
        meaning="one turn a row in TRL's conversational preference format with an explicit prompt: the correction is"
        " chosen, the answer rejected",
        record=_preference,
        schema=lambda _: pl.Schema(_PREFERENCE),
        tags=("conversational", "preference", "dpo", "trl"),
        same=_chosen_is_rejected,
    ),
    "llamafactory": Format(
        per_turn=True,
        meaning="one turn a row in LLaMA-Factory's sharegpt preference format: the conversation up to the question, the"
        " correction as chosen, the answer as rejected",
        record=_llamafactory,
        schema=lambda _: pl.Schema(_LLAMAFACTORY),
        tags=("conversational", "preference", "dpo", "sharegpt", "llama-factory"),
        same=_chosen_is_rejected,
        dataset_info={
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        },
    ),
    "aligner": Format(
        per_turn=True,
        meaning="one turn a row as aligner-20K's triple; the question contains the dialogue before it",
        record=_aligner,
        schema=lambda _: pl.Schema(_ALIGNER),
        tags=("aligner",),
        dataset_info={
            "formatting": "alpaca",
            "columns": {"prompt": "question", "query": "answer", "response": "correction"},
        },
    ),
    "parquet": Format(
        per_turn=False,
        meaning="one conversation a row; question, answer and correction are arrays with one text a round",
        record=_parquet_record,
        schema=_parquet_schema,
        tags=("conversational", "aligner"),
    ),
}
