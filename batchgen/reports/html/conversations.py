"""Read the texts for the page: their lengths, their flags, and the conversations that the page shows.

The store is read in short ranges, so that a tick can commit while a report runs. There are two passes over all
conversations for the statistics; the chosen conversations are then read again. Only a few ranges are in memory at once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from batchgen.core.dialogue import STAGES, Conversation, Step, Turn
from batchgen.dataset.audit.verdicts import JudgedTurn, judged_turns
from batchgen.dataset.manifest import all_instructions, known_facts
from batchgen.dataset.quality.flags import JUDGED_FLAGS, LABELS, labels_by_turn, turns_frame
from batchgen.dataset.quality.survey import Survey, survey
from batchgen.engine.session import Session
from batchgen.ledger.rows import ConversationState
from batchgen.ledger.run import Names
from batchgen.reports.html.audit_values import verdict_record
from batchgen.reports.html.lengths import Counts, LengthCounter
from batchgen.reports.html.sample import Sample
from batchgen.reports.html.word_diff import diff_words
from batchgen.runtime.progress_log import log_progress
from batchgen.runtime.worker_process import parallel_map

if TYPE_CHECKING:
    import polars as pl

RANGE = 250  # conversations read at once; 1,000 would take 40 MB more and save no time
MAX_TEXT_CHARACTERS = 10_000  # shown of one text; exported files have the full text
BYTES_A_CONVERSATION = 12_000  # on average, before compression
READ_FIRST = 10  # conversations that the page names to be read first
COMPLETE, OPEN, REJECTED = "complete", "open", "rejected"


class LoadedConversation(NamedTuple):
    """A conversation with its accepted texts and its state in the store."""

    conversation: Conversation
    standing: ConversationState

    def state(self, rounds: int) -> str:
        if self.standing.reason:
            return REJECTED
        return COMPLETE if is_complete(self.conversation, rounds) else OPEN


class Note(NamedTuple):
    """What the page needs about a conversation besides its texts.

    State, labels by turn, row of the store, and the judged turns by round.
    """

    state: str
    labels: tuple[tuple[str, ...], ...]
    standing: ConversationState
    judged: Mapping[int, JudgedTurn]


class TextStatistics(NamedTuple):
    """`lengths` counts texts by round, field and characters; `labels` counts turns by (label, round).

    `conversations` counts conversations by label, and `flagged` of the `complete` ones have a label, both without
    JUDGED_FLAGS. `shown` are the page's conversations as JSON, in seed order; `first` are the indices of those to read
    first, in the order of reading. `names` are the labels; `shown` refers to them by index.
    """

    lengths: Counts
    labels: Counter[tuple[str, int]]
    conversations: Counter[str]
    flagged: int
    complete: int
    shown: list[bytes]
    first: list[int]
    names: tuple[str, ...] = tuple(LABELS)


def read_texts(session: Session, most: int) -> TextStatistics:
    """Read every conversation for the statistics and choose at most `most` to be shown."""
    rounds = session.settings.rounds
    judged = {(turn.number, turn.round): turn for turn in judged_turns(session)}
    ranges = log_progress(read_ranges(session), f"of {session.conversations:,} conversations measured", len)
    done = (turns_frame(found) for seen in ranges if (found := complete_conversations(seen, rounds)))
    winners = ((*turn, judged[turn].winner) for turn in judged)
    whole = survey(done, partial(_turns_of, session), groups=False, judged=winners)
    return _TextScan(session, whole, judged, most).texts()


def read_ranges(session: Session) -> Iterator[list[LoadedConversation]]:
    """Yield all conversations, RANGE at a time. No cursor stays open in between, so that a tick can write."""
    rounds = session.settings.rounds
    for first in range(1, session.conversations + 1, RANGE):
        standings = session.store.dialogues.conversation_states(first, first + RANGE - 1)
        if not standings:
            return
        found = {one.number: one for one in session.store.dialogues.read([row.number for row in standings])}
        yield [
            LoadedConversation(one._replace(turns=one.turns[:rounds]), row)
            for row in standings
            if (one := found.get(row.number))
        ]


def _turns_of(session: Session, numbers: pl.Series) -> Iterator[pl.DataFrame]:
    """Yield the turns of the conversations with these numbers, RANGE conversations at a time."""
    rounds = session.settings.rounds
    for first in range(0, numbers.len(), RANGE):
        found = list(session.store.dialogues.read(numbers.slice(first, RANGE).to_list()))
        yield turns_frame(one._replace(turns=one.turns[:rounds]) for one in found)


def is_complete(conversation: Conversation, rounds: int) -> bool:
    return len(conversation.turns) == rounds and all(conversation.turns[-1])


def complete_conversations(seen: Sequence[LoadedConversation], rounds: int) -> list[Conversation]:
    """Return the conversations that have all rounds. Only these are flagged, as in an export."""
    return [one.conversation for one in seen if is_complete(one.conversation, rounds)]


class _TextScan:
    """The second pass over all conversations: counts lengths and labels, and chooses the sample."""

    def __init__(
        self, session: Session, whole: Survey, judged: Mapping[tuple[int, int], JudgedTurn], most: int
    ) -> None:
        self._session, self._whole, self._rounds = session, whole, session.settings.rounds
        self._judged = judged
        self._most, self._sample = most, Sample[Note](most)
        self._first = Sample[Note](min(READ_FIRST, most // 2), each=1)  # a small page has room for others, too
        self._lengths = LengthCounter()
        self._labels, self._conversations = Counter[tuple[str, int]](), Counter[str]()
        self._flagged, self._complete = 0, 0

    def texts(self) -> TextStatistics:
        for seen, found in self._flagged_ranges():
            self._lengths.learn(one.conversation for one in seen)
            for one in seen:
                self._add(one, found.get(one.conversation.number, ()))
        shown, first = self._shown()
        return TextStatistics(
            self._lengths.counts, self._labels, self._conversations, self._flagged, self._complete, shown, first
        )

    def _flagged_ranges(self) -> Iterator[tuple[list[LoadedConversation], dict[int, tuple[tuple[str, ...], ...]]]]:
        """Yield every range, with labels by turn of its complete conversations by number."""
        waiting: deque[list[LoadedConversation]] = deque()

        def frames() -> Iterator[pl.DataFrame]:
            every = f"of {self._session.conversations:,} conversations read"
            for seen in log_progress(read_ranges(self._session), every, len):
                waiting.append(seen)
                yield self._whole.add_context(turns_frame(complete_conversations(seen, self._rounds)))

        find_labels = partial(labels_by_turn, instructions=all_instructions(known_facts(self._session.layout)))
        for _, labelled in parallel_map(find_labels, frames()):
            seen, found = waiting.popleft(), iter(labelled)
            whole = complete_conversations(seen, self._rounds)
            yield seen, {one.number: tuple(tuple(next(found)) for _ in one.turns) for one in whole}

    def _add(self, one: LoadedConversation, found: tuple[tuple[str, ...], ...]) -> None:
        number, state = one.conversation.number, one.state(self._rounds)
        judged = self._judged_rounds(number)
        flags, note = {label for marks in found for label in marks}, Note(state, found, one.standing, judged)
        verdicts = {f"verdict: {turn.winner}" for turn in judged.values()}
        self._flagged += bool(flags - JUDGED_FLAGS)
        self._conversations.update(flags - JUDGED_FLAGS)
        for at, marks in enumerate(found, start=1):
            self._labels.update((label, at) for label in marks)
        names = flags | verdicts | {state, f"round {len(one.conversation.turns)}"}
        if one.standing.reason:
            names.add(f"{REJECTED}: {one.standing.reason}")
        self._sample.offer(number, names, note)
        if state == COMPLETE:
            self._complete += 1
            self._first.offer(number, flags | verdicts, note)

    def _judged_rounds(self, number: int) -> dict[int, JudgedTurn]:
        """Return the judged turns of a conversation by round."""
        if not self._judged:
            return {}
        return {at: turn for at in range(1, self._rounds + 1) if (turn := self._judged.get((number, at)))}

    def _shown(self) -> tuple[list[bytes], list[int]]:
        """Return the conversations of the page as JSON in the order of the seeds, and the indices of the first to read.

        Together they take up to `most` times BYTES_A_CONVERSATION.
        """
        names, room = self._session.names(), self._most * BYTES_A_CONVERSATION
        first = dict(self._first.chosen())
        records: dict[int, bytes] = {}
        for number, note in islice({**first, **dict(self._sample.chosen())}.items(), self._most):
            for one in self._session.store.dialogues.read([number]):
                record = orjson.dumps(conversation_record(one, note, names, self._rounds))
                room -= len(record)
                if room >= 0 or not records:
                    records[number] = record
            if room < 0:
                break
        order = sorted(records)
        return [records[number] for number in order], [order.index(number) for number in first if number in records]


def conversation_record(one: Conversation, note: Note, names: Names, rounds: int) -> dict[str, Any]:
    """Return a conversation as the page's script reads it.

    `i` is the id, `s` the state, `t` the turns. A turn has the question, the segments of answer and correction
    (`word_diff`), the indices of its labels, 1 if a text was cut, and, if it was judged, what the judge said
    (`verdict_record`; before it there is a 0 if no text was cut). `w` of a rejected conversation is round, stage,
    reason, detail and failed attempts; of an open one round, stage, and "in flight" or "ready".
    """
    marks = note.labels or ((),) * len(one.turns)
    turns = [
        _turn_record(turn, found, note.judged.get(number))
        for number, (turn, found) in enumerate(zip(one.turns[:rounds], marks, strict=False), start=1)
    ]
    record: dict[str, Any] = {"i": names.id(one.number), "s": note.state, "t": turns}
    step = Step.at(min(note.standing.position, rounds * len(STAGES) - 1))
    if note.state == REJECTED:
        row = note.standing
        record["w"] = [step.round, step.stage, row.reason, row.detail or "", row.failed_attempts]
    elif note.state == OPEN:
        record["w"] = [step.round, step.stage, "in flight" if note.standing.batch else "ready"]
    return record


def _turn_record(turn: Turn, found: Sequence[str], judged: JudgedTurn | None) -> list[Any]:
    question, answer, correction = (text[:MAX_TEXT_CHARACTERS] for text in turn)
    alone = ([answer] * bool(answer), [correction] * bool(correction))
    both = diff_words(answer, correction) if answer and correction else alone
    order = list(LABELS)
    cut = max(map(len, turn)) > MAX_TEXT_CHARACTERS
    record = [question, *both, [order.index(label) for label in found]]
    if judged:
        return [*record, int(cut), verdict_record(judged)]
    return [*record, 1] if cut else record
