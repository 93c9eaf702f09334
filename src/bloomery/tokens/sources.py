"""What a run reads: sources by name, the rows of each, and the plan of who comes when; and what the log says of them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any  # Any: metrics are plain JSON values

import numpy as np

from bloomery.tokens.loader import TokenRows
from bloomery.tokens.plan import Plan

log = logging.getLogger(__name__)

MAX_LOGGED_SOURCES = 32
"""Of more sources the last are logged together, as "others"."""
OTHERS = "others"


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a run reads: the rows of each source by their length, its held-out rows, and who comes when."""

    names: list[str]
    train: Mapping[int, list[TokenRows]]
    held_out: Mapping[str, TokenRows]
    fingerprints: list[str]
    plan: Plan

    def logged_names(self) -> list[str]:
        """The sources in the order of their inputs; of many the first, the rest together."""
        return self.names if len(self.names) <= MAX_LOGGED_SOURCES else [*self.names[: MAX_LOGGED_SOURCES - 1], OTHERS]

    def count_tokens(self, step: int) -> dict[str, int]:
        """For the log: tokens of each source before a step, the little padding of its rows counted."""
        counts, logged = self.plan.places_drawn(step).tolist(), self.logged_names()
        last = len(logged) - 1
        return {f"train/tokens/{name}": sum(counts[i:]) if i == last else counts[i] for i, name in enumerate(logged)}

    def padding_fraction(self) -> float:
        """The share of places without a token in what the run reads, a source counted as often as it is read. No token is lost."""
        places, empty = 0, 0.0
        for row_tokens, rows in self.plan.rows_drawn(self.plan.num_steps).items():
            for count, source in zip(rows.tolist(), self.train[row_tokens], strict=True):
                places += count * row_tokens
                empty += count * row_tokens * source.packed.padding_fraction
        return empty / places

    def say_what_repeats(self, step: int) -> None:
        """Logs the sources that begin another epoch in this step (the second, fourth, eighth ...) or are used up."""
        for source, epoch in self.plan.new_epochs(self.plan.draw(step)):
            if epoch & (epoch - 1) == 0:
                log.info("step %d: the source %s repeats; its epoch %d begins", step, self.names[source], epoch)
        for used in self.plan.used_up:
            if used.step == step:
                log.info("step %d: the source %s is used up; the others share its part", step, self.names[used.source])

    def beginnings(self, count: int, *, num_tokens: int) -> list[list[int]]:
        """The first `num_tokens` tokens of so many held-out documents, of each source in turn."""
        sources = list(self.held_out.values())
        places = [(sources[i % len(sources)].tokens, i // len(sources)) for i in range(count if sources else 0)]
        return [tokens.document(i)[:num_tokens].tolist() for tokens, i in places if i < tokens.num_documents]

    def describe_step(self, step: int) -> dict[str, Any]:
        """For the log of spikes: the rows that all processes together read in a step, by source."""
        draw = self.plan.draw(step)
        rows = {self.names[i]: " ".join(map(str, draw.row[draw.source == i].tolist())) for i in np.unique(draw.source).tolist()}
        return {"sequence_tokens": draw.row_tokens, **{f"rows of {name}": row for name, row in rows.items()}}

    def describe(self) -> dict[str, Any]:
        """For training.json: of each source, what was read of it in the whole run."""
        steps = self.plan.num_steps
        used_up = {used.source: used.step for used in self.plan.used_up}
        found = {}
        for i, (tokens, epochs) in enumerate(zip(self.plan.places_drawn(steps).tolist(), self.plan.epochs(steps).tolist(), strict=True)):
            size = next(iter(self.train.values()))[i].tokens.num_tokens
            found[self.names[i]] = {"tokens": tokens, "epochs": round(epochs, 4), "source_tokens": size, "used_up_at_step": used_up.get(i)}
        return found
