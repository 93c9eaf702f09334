"""The filter stage: its output, what it leaves beside it, and the rules that a recipe adds."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bloomery.core.config import check_config
from bloomery.core.documents import document_table, read_documents, write_documents
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.stage import Runtime
from bloomery.curate.ledger import read_ledger
from bloomery.stages.filter import FilterConfig, filter

PROSE = (
    "The furnace is charged with charcoal and iron ore, and air is blown into it for the whole of the day.\n"
    "At the end of that time a spongy mass of iron and slag can be drawn out, which the smiths call a bloom.\n"
    "It has to be hammered while it is hot, so that most of the slag runs out of it and the iron is welded.\n"
)


def run(folder: Path, rows: list[dict[str, Any]], *, lists: tuple[Path, ...] | list[Path] = (), **config: Any) -> dict[str, Any]:
    source = folder / "in" / "00000.parquet"
    source.parent.mkdir(parents=True, exist_ok=True)
    write_documents(source, document_table([{"language": "en", "language_score": 0.9, **row} for row in rows]))
    (folder / "out").mkdir(exist_ok=True)
    out = folder / "out"
    return dict(filter(FilterConfig(**config), documents=[source.parent], lists=lists, out=out, runtime=Runtime.local(out)))


def test_what_every_document_was_judged_on_lies_beside_the_documents(tmp_path):
    metrics = run(tmp_path, [{"id": "a", "text": PROSE}, {"id": "b", "text": "Too short."}, {"id": "c", "text": PROSE, "language": "fr"}])
    assert metrics["documents_out"] == 1 and metrics["dropped/too_few_words"] == 1 and metrics["dropped/wrong_language"] == 1
    judged = pq.read_table(tmp_path / "out" / "signals" / "00000.parquet").to_pylist()
    assert [(row["id"], row["rule"]) for row in judged] == [("a", None), ("b", "too_few_words"), ("c", "wrong_language")]
    assert judged[1]["broken"][:2] == ["too_few_words", "too_few_alphabetic"] and judged[1]["signal_words"] == 2
    kept = read_documents(tmp_path / "out" / "00000.parquet").to_pylist()
    assert kept[0]["signal_words"] == judged[0]["signal_words"] == 68


def test_rules_of_a_recipe_come_last_and_read_signals_of_other_stages(tmp_path):
    rows = [{"id": name, "text": PROSE, "signal_quality": value} for name, value in (("a", 0.9), ("b", 0.1))]
    dull = {"name": "dull", "signal": "quality", "drops": "below", "threshold": 0.2}
    run(tmp_path, rows, extra_rules=[dull])
    assert [(row["id"], row["rule"], row["value"]) for row in read_ledger(tmp_path / "out").to_pylist()] == [("b", "dull", 0.1)]
    with pytest.raises(DataError, match=r'"dull" needs signal_quality.*scorers'):
        run(tmp_path / "without", [{"id": "a", "text": PROSE}], extra_rules=[dull])


def test_word_lists_are_an_input(tmp_path):
    (tmp_path / "words.jsonl").write_text('{"lang": "en", "words": ["spongy mass"]}\n')
    rows = [{"id": "a", "text": PROSE}, {"id": "b", "text": PROSE.replace("spongy", "soft")}]
    run(tmp_path, rows, rules=["bad_words"], lists=[tmp_path / "words.jsonl"])
    assert [(row["id"], row["rule"], row["value"]) for row in read_ledger(tmp_path / "out").to_pylist()] == [("a", "bad_words", 1)]


def test_a_language_may_have_a_certainty_and_thresholds_of_its_own(tmp_path):
    rows = [{"id": language, "text": PROSE, "language": language, "language_score": 0.68} for language in ("de", "en", "fr")]
    config = {
        "rules": ["language"],
        "languages": [],
        "language_scores": {"de": 0.7},
        "language_thresholds": {"fr": {"uncertain_language": 0.8}},
    }
    run(tmp_path, rows, **config)
    assert [(row["id"], row["threshold"]) for row in read_ledger(tmp_path / "out").to_pylist()] == [("de", 0.7), ("fr", 0.8)]


def test_edited_lines_are_counted_and_a_document_without_any_left_is_dropped(tmp_path):
    metrics = run(tmp_path, [{"id": "a", "text": "Menu\n" + PROSE}, {"id": "b", "text": "Menu\nHome"}], edit_lines=["c4"])
    assert metrics["edited/c4_no_line_end"] == 3 and metrics["dropped/no_lines_left"] == 1
    assert read_documents(tmp_path / "out" / "00000.parquet").to_pylist()[0]["text"] == PROSE.strip()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rules": []}, "no rules: name a set"),
        ({"language_thresholds": {"de": {"long_wrds": 12}}}, 'did you mean "long_words"'),
        ({"rules": ["gopher"], "language_scores": {"de": 0.7}}, 'the rule set "language", which is not among'),
        (
            {"extra_rules": [{"name": "too_few_words", "signal": "words", "drops": "below", "threshold": 3}]},
            'named "too_few_words" already',
        ),
        ({"edit_lines": ["c5"]}, "edit_lines"),
    ],
)
def test_mistakes_in_the_config_are_explained(values, message):
    config, mistakes = check_config(FilterConfig, values)
    assert config is None and message in " ".join(mistakes)


def test_languages_are_named_anew_by_another_identifier_and_shares_of_paragraphs_are_a_signal(tmp_path):
    pytest.importorskip("pycld2")
    german = "Das Eisen wird im Ofen mit Holzkohle geschmolzen und danach geschmiedet, bis die Schlacke heraus ist."
    english = "The iron is melted with charcoal in the furnace and then forged until all of the slag has come out of it."
    rows = [{"id": "g", "text": german, "language": "en", "language_score": 1.0}, {"id": "m", "text": f"{english}\n{german}\n{german}"}]
    write_documents(tmp_path / "in.parquet", document_table(rows))
    config = FilterConfig(rules=["language"], languages=[], min_language_score=0, identifier="cld2", paragraph_languages=True)
    out = tmp_path / "out"
    filter(config, documents=[tmp_path / "in.parquet"], out=out, runtime=Runtime(quiet=True))
    found = {row["id"]: row for row in pq.read_table(out / "signals" / "00000.parquet").to_pylist()}
    assert found["g"]["language"] == "de" and found["g"]["signal_language_share"] == 1.0
    assert found["m"]["language"] == "de" and 0.6 < found["m"]["signal_language_share"] < 0.7


def test_fasttext_and_its_model_go_together(tmp_path):
    write_documents(tmp_path / "in.parquet", document_table([{"id": "a", "text": "b"}]))
    with pytest.raises(ConfigError, match="language_model"):
        filter(FilterConfig(identifier="fasttext"), documents=[tmp_path / "in.parquet"], out=tmp_path, runtime=Runtime(quiet=True))
