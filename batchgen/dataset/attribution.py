"""Which model wrote which text."""

from __future__ import annotations

from batchgen.core.dialogue import STAGES
from batchgen.ledger.rows import BatchState
from batchgen.ledger.store import Store


class Writers:
    """Which model wrote each text, from the ledger. Only a step that changed its model is looked up row by row."""

    def __init__(self, store: Store, rounds: int) -> None:
        self._store, self._places = store, range(rounds * len(STAGES))
        self._models: dict[int, str] = {}
        self._only: dict[int, str | None] = {}
        collected = store.batches(BatchState.COLLECTED)
        for position in self._places:
            # A question may have come along with the correction before it.
            batches = [each for each in collected if each.position <= position < each.position + each.texts]
            models = {batch.model for batch in batches}
            if len(models) > 1:
                self._models |= {batch.number: batch.model for batch in batches}
            else:
                self._only[position] = models.pop() if models else None

    def of(self, number: int) -> tuple[str | None, ...]:
        """The model behind each text of a conversation, None for the seed's."""
        if not self._models:
            return tuple(self._only.values())
        sources = self._store.dialogues.sources(number)
        return tuple(
            self._only[place] if place in self._only else self._models.get(sources.get(place, 0))
            for place in self._places
        )
