"""Recognise the shape of a dataset's rows, and make question, answer and correction of them.

In preference data the rejected text is the answer, and the chosen text is the correction. A seed has one turn: a row
with an earlier turn is left out, because its last question alone would be understood differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from batchgen.dataset.rows.dotted_paths import FIELDS, column_of, decode_json, find

PAIR_FIELDS = ("chosen", "rejected")
PROMPT_COLUMNS = ("prompt", "question", "conversations", "messages")  # UltraFeedback has both prompt and messages
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "chatbot": "assistant"}  # other names of roles
SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
MOST_SHOWN = 200  # characters of a header in an error

Row = Mapping[str, object]


class RowError(StrEnum):
    """Why a row cannot be a seed; a reader or a shape yields it in place of the row."""

    UNREADABLE = "unreadable"  # not JSON, or not UTF-8
    NOT_AN_OBJECT = "not an object"
    WRONG_COLUMNS = "wrong number of columns"
    REPEATED_HEADER = "repeated header"  # where two files were put together
    NO_CHOSEN = "chosen is not a text or messages"
    NO_REJECTED = "rejected is not a text or messages"
    DIFFERENT_QUESTIONS = "chosen and rejected answer different questions"
    NO_REPLY = "the last message is not the assistant's"
    NO_QUESTION = "no message of the user"
    MORE_TURNS = "more than one turn"


class WrongColumns(ValueError):
    """A table without the columns that are needed. `row` has the columns that it has, with values if they are known."""

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(f"{message}; found: {', '.join(names)[:MOST_SHOWN] or 'none'}")
        self.row: dict[str, object] = dict.fromkeys(names)


class Shape(NamedTuple):
    """`title` describes it to the user; `read` returns a row's question, answer and correction, or why it has none."""

    title: str
    read: Callable[[Row], Row | RowError]


class Message(NamedTuple):
    """One message of a dialogue: user, assistant, system or another role, and its content."""

    role: str
    content: object


ALIGNER = Shape("Aligner triples: question, answer, correction", lambda row: row)


class Columns:
    """Where the three texts are: in the columns of a shape that is recognised, or at the paths of `--columns`."""

    def __init__(self, paths: Mapping[str, str] | None = None) -> None:
        self.paths = paths

    def used(self, names: Sequence[str]) -> list[str]:
        """Return the columns of a table that are read. Raises WrongColumns if one is missing or there twice."""
        if self.paths:
            found = {path: column_of(path, names) for path in self.paths.values()}
            if missing := [path for path, name in found.items() if name is None]:
                raise WrongColumns(f"no column for {', '.join(missing)}", names)
            wanted = [name for name in dict.fromkeys(found.values()) if name]
        elif {*FIELDS}.issubset(names) or not {*PAIR_FIELDS}.issubset(names):
            wanted = [*FIELDS]
        else:
            wanted = [*[name for name in PROMPT_COLUMNS if name in names][:1], *PAIR_FIELDS]
        if any(names.count(name) != 1 for name in wanted):
            raise WrongColumns(f"needs {', '.join(wanted)}, once each", names)
        # Without a prompt these are transcripts, or no known shape: then an error suggests the other columns.
        return [*names] if wanted == [*PAIR_FIELDS] and not self.paths else wanted

    def has_any(self, row: Row) -> bool:
        """Return whether an object has a column that a row would have."""
        if self.paths:
            return any(column_of(path, row) for path in self.paths.values())
        return not row.keys().isdisjoint({*FIELDS, *PAIR_FIELDS})

    def recognize(self, row: Row) -> Shape | None:
        """Return the shape of a row, None if it has no known shape."""
        if self.paths:
            return Shape(", ".join(f"{field} = {path}" for field, path in self.paths.items()), self._read_paths)
        if row.keys() >= {*FIELDS}:
            return ALIGNER
        return _recognize_pair(row)

    def _read_paths(self, row: Row) -> Row:
        return {field: find(row, path) for field, path in (self.paths or {}).items()}


def _recognize_pair(row: Row) -> Shape | None:
    values = {name: _decoded(row.get(name)) for name in (*PROMPT_COLUMNS, *PAIR_FIELDS)}
    chosen, rejected = values["chosen"], values["rejected"]
    is_text = isinstance(chosen, str) and isinstance(rejected, str)
    if not is_text and not (isinstance(chosen, list | dict) and isinstance(rejected, list | dict)):
        return None
    if is_text and _is_transcript(str(chosen)) and _is_transcript(str(rejected)):
        return _pair_shape("transcripts (hh-rlhf)", None, transcripts=True)
    before = next((name for name in PROMPT_COLUMNS if isinstance(values[name], str | list)), None)
    if before is None:
        return _pair_shape("messages (OpenAI)", None) if isinstance(chosen, list) else None
    if isinstance(values[before], str):
        kind = f"texts with a {before}" if is_text else f"messages with a {before} (UltraFeedback)"
    else:
        kind = "conversations (ShareGPT)" if before == "conversations" else "messages (OpenAI)"
    return _pair_shape(kind, before)


def _pair_shape(kind: str, prompt: str | None, *, transcripts: bool = False) -> Shape:
    title = f"preference pairs of {kind}: answer = rejected, correction = chosen; rows of one turn"
    return Shape(title, partial(_read_pair, prompt=prompt, transcripts=transcripts))


def _read_pair(row: Row, *, prompt: str | None, transcripts: bool) -> Row | RowError:
    """Return the triple of a preference pair. System messages are not taken: a seed has no place for them."""
    chosen = _messages(row.get("chosen"), "assistant", transcripts=transcripts)
    rejected = _messages(row.get("rejected"), "assistant", transcripts=transcripts)
    if not chosen or not rejected:
        return RowError.NO_REJECTED if chosen else RowError.NO_CHOSEN
    correction, answer = chosen.pop(), rejected.pop()
    if not correction.role == answer.role == "assistant":
        return RowError.NO_REPLY
    before = _messages(row.get(prompt), "user", transcripts=True) if prompt else []
    if before and before[-1] in (Message("assistant", ""), correction):  # an open turn, or the chosen reply once more
        before.pop()
    if chosen != rejected and max(len(chosen), len(rejected)) == 1:
        return RowError.DIFFERENT_QUESTIONS
    question = _only_question(max(chosen, rejected, before, key=len))
    if isinstance(question, RowError):
        return question
    return dict(zip(FIELDS, (question.content, answer.content, correction.content), strict=True))


def _only_question(asked: list[Message]) -> Message | RowError:
    if not any(message.role == "user" for message in asked):
        return RowError.NO_QUESTION
    return RowError.MORE_TURNS if len(asked) > 1 else asked[0]


def _messages(value: object, speaker: str, *, transcripts: bool) -> list[Message]:
    """Return the messages of a value without those of the system; a text is one message of the speaker, if no
    transcript. Returns an empty list if the value has another type.
    """
    value = _decoded(value)
    if isinstance(value, str):
        found = _transcript(value) if transcripts and _is_transcript(value) else [Message(speaker, value.strip())]
    else:
        each = value if isinstance(value, list) else [value]
        found = [_message(one) for one in each if isinstance(one, dict)]
        if len(found) < len(each):
            return []
    return [message for message in found if message.role != "system"]


def _message(value: Row) -> Message:
    """Return a message of {role, content} or {from, value}."""
    role = str(value.get("role") or value.get("from") or "").lower()
    content = value.get("content", value.get("value"))
    return Message(ROLES.get(role, role), content.strip() if isinstance(content, str) else content)


def _decoded(value: object) -> object:
    """Return messages that are written as JSON in a text, as in a CSV; any other value as it is."""
    if not isinstance(value, str) or not value.startswith(("[{", '{"')):
        return value
    decoded = decode_json(value)
    first = decoded[0] if isinstance(decoded, list) and decoded else decoded
    return decoded if isinstance(first, dict) and not first.keys().isdisjoint({"role", "from"}) else value


def _is_transcript(text: str) -> bool:
    return text.lstrip().startswith("Human:")


def _transcript(text: str) -> list[Message]:
    r"""Return the messages of "\n\nHuman: ...\n\nAssistant: ..."."""
    _, *parts = SPEAKER.split(text)
    return [Message(SPEAKERS[who], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True)]
