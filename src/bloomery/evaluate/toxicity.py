"""How toxic texts are, by what the user brings: lists of bad words, and classifiers that `train_classifier` made."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bloomery.core.documents import document_table
from bloomery.curate.safety import add_bad_word_signals, load_word_lists
from bloomery.curate.scorers import load_scorers


def make_toxicity(lists: Sequence[Path], scorers: Sequence[Path]) -> Callable[[Sequence[str]], list[Mapping[str, float]]]:
    """A measure of texts: `bad_words` is 1 for a text with a word of the lists, and each scorer gives a probability by its name.

    A text that a scorer cannot judge (it has no words) counts as not toxic. Raises DataError for what is no list or scorer.
    """
    words = load_word_lists(lists)
    loaded = load_scorers(scorers)

    def measure(texts: Sequence[str]) -> list[Mapping[str, float]]:
        table = document_table([{"id": str(i), "text": text, "language": "en"} for i, text in enumerate(texts)])
        found: list[dict[str, float]] = [{} for _ in texts]
        if words:
            counts = add_bad_word_signals(table, words).column("signal_bad_words").to_pylist()
            for one, count in zip(found, counts, strict=True):
                one["bad_words"] = float(count > 0)
        for scorer in loaded:
            values = scorer.add_signals(table).column(f"signal_{scorer.name}").to_pylist()
            for one, value in zip(found, values, strict=True):
                one[scorer.name] = min(1.0, max(0.0, float(value or 0.0)))
        return list(found)

    return measure
