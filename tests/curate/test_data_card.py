"""The data card counts what is there, however it is cut into parts."""

import json

from bloomery.core.documents import document_table
from bloomery.curate.data_card import card_markdown, count_documents, sum_counts, write_data_card

ROWS = [
    {"id": "1", "text": "four", "url": "https://www.A.example:80/x", "source": "web", "language": "en", "license": "CC BY 4.0"},
    {"id": "2", "text": "größe", "url": "http://user@a.example/y", "source": "web", "language": "de", "meta": {"licence": "MIT"}},
    {"id": "3", "text": "", "source": "books | old", "language": None},
]


def test_documents_are_counted_by_source_language_domain_and_licence():
    counts = count_documents(document_table(ROWS), tokens=[1, 2, 0])
    assert (counts["documents"], counts["bytes"], counts["tokens"]) == (3, 4 + 7, 3)
    assert counts["by"]["source"] == {"web": [2, 11, 3], "books | old": [1, 0, 0]}
    assert counts["by"]["domain"] == {"a.example": [2, 11, 3], "(not said)": [1, 0, 0]}
    assert counts["by"]["licence"] == {"CC BY 4.0": [1, 4, 1], "MIT": [1, 7, 2], "(not said)": [1, 0, 0]}


def test_parts_sum_to_the_whole_with_the_largest_first():
    parts = [count_documents(document_table([row]), tokens=[number]) for number, row in enumerate(ROWS)]
    whole = count_documents(document_table(ROWS), tokens=[0, 1, 2])
    total = sum_counts(parts)
    assert total == whole | {"by": {group: dict(total["by"][group]) for group in whole["by"]}}
    assert list(total["by"]["language"]) == ["de", "en", "(not said)"]


def test_the_card_is_written_for_people_and_for_programs(tmp_path):
    counts = sum_counts([count_documents(document_table(ROWS))])
    write_data_card(tmp_path, counts, title="Documents for training")
    assert json.loads((tmp_path / "data_card.json").read_text())["documents"] == 3
    text = (tmp_path / "data_card.md").read_text()
    assert text == card_markdown(counts, title="Documents for training")
    assert "| books \\| old | 1 | 0 | 0.0 % |" in text and "tokens" not in text
    assert "tokens" in card_markdown(counts | {"tokens": 5}, title="")
