"""Augmentation: originals stay as they are, copies are marked, and everything follows from ids and the seed."""

import json

import pyarrow as pa
import pytest

from bloomery.core.config import check_config
from bloomery.core.documents import document_table
from bloomery.core.errors import ConfigError
from bloomery.curate.augment import HOOKS, add_copies, find_hook
from bloomery.curate.flow import Shard
from bloomery.stages.augment import AugmentConfig, augment_file

TEXTS = ["The Smith works.\nAll day.\n\nAnd all night.", "already lower", "", "Ünïcode 猫 Words And More Of Them, Many Of Them " * 9]


def table() -> pa.Table:
    return document_table([{"id": str(i), "text": text, "stars": i} for i, text in enumerate(TEXTS)])


def shout(documents: pa.Table, seed: int) -> pa.Table:
    """A hook as somebody else would write one."""
    texts = pa.array([f"{text.upper()}{seed}" for text in documents.column("text").to_pylist()], pa.large_string())
    return documents.set_column(1, documents.schema.field(1), texts)


def half(documents: pa.Table, seed: int) -> pa.Table:
    return documents.slice(0, len(documents) // 2)


def test_originals_come_first_and_copies_name_theirs():
    found = add_copies(table(), ["lowercase"], fraction=1.0, seed=0)
    assert found.slice(0, 4).equals(table())
    copies = found.slice(4).to_pylist()
    assert [row["text"] for row in copies] == [TEXTS[0].lower(), TEXTS[3].lower()]  # the others are in lower case already
    assert json.loads(copies[0]["meta"]) == {"augmented": "lowercase", "original": "0", "stars": 0}
    assert len(set(found.column("id").to_pylist())) == len(found)


def test_single_line_breaks_are_unwrapped_and_paragraphs_stay():
    assert HOOKS["unwrap_lines"](table(), 0).column("text")[0].as_py() == "The Smith works. All day.\n\nAnd all night."


def test_typos_swap_neighbours_and_hang_on_the_id_and_the_seed_alone():
    whole = HOOKS["typos"](table(), 1).column("text").to_pylist()
    assert whole[3] != TEXTS[3] and sorted(whole[3]) == sorted(TEXTS[3])
    assert HOOKS["typos"](table().slice(3), 1).column("text").to_pylist() == whole[3:]
    assert HOOKS["typos"](table(), 2).column("text").to_pylist() != whole


def test_a_share_of_the_documents_is_copied_whatever_the_batches():
    many = document_table([{"id": str(i), "text": f"Text {i}"} for i in range(400)])
    whole = add_copies(many, ["lowercase"], fraction=0.25, seed=3)
    assert 70 <= len(whole) - 400 <= 130
    parts = [add_copies(many.slice(i, 50), ["lowercase"], fraction=0.25, seed=3) for i in range(0, 400, 50)]
    assert sorted(whole.column("id").to_pylist()) == sorted(pa.concat_tables(parts).column("id").to_pylist())


def test_a_function_of_ones_own_is_named_by_its_module():
    found = add_copies(table(), [f"{__name__}:shout"], fraction=1.0, seed=7)
    assert found.column("text")[5].as_py() == "ALREADY LOWER7"


def test_hooks_that_cannot_be_are_named():
    with pytest.raises(ConfigError, match='did you mean "lowercase"'):
        find_hook("lowercased")
    with pytest.raises(ConfigError, match="no_such_module"):
        find_hook("no_such_module:function")
    with pytest.raises(ConfigError, match="2 rows of 4"):
        add_copies(table(), [f"{__name__}:half"], fraction=1.0, seed=0)
    config, mistakes = check_config(AugmentConfig, {"hooks": ["typo"]})
    assert config is None and 'did you mean "typos"' in mistakes[0]


def test_the_stage_counts_its_copies(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (outcome,) = augment_file(AugmentConfig(fraction=1.0), Shard(0, tmp_path / "rows.jsonl"))
    assert outcome.documents_in == 4 and len(outcome.kept) == 6 and outcome.counts == {"augmented": 2} and len(outcome.ledger) == 0
