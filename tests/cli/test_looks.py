"""`bloomery inspect` on what curation did: every look answers, in text and as JSON, from a tiny run of real stages."""

import json

import pytest
from typer.testing import CliRunner

from bloomery.cli.main import app
from bloomery.core.files import write_jsonl

RECIPE = """\
name = "look"

[stages.extracted]
stage  = "extract"
inputs = { pages = "file:texts.jsonl" }

[stages.filtered]
stage  = "filter"
inputs = { documents = "extracted" }
config = { rules = ["gopher_quality"], languages = [] }

[stages.unique]
stage  = "dedup"
inputs = { documents = "filtered" }
"""

TREES = ("oak", "ash", "elm", "pine", "birch", "beech", "maple")


def make_text(number: int, sentences: int) -> str:
    verbs = ("stands behind", "is taller than", "has to be cut with", "and the smith of")
    return " ".join(
        f"The {TREES[(number + i) % 7]} {verbs[(number * i) % 4]} the house of village {number * 31 + i * 7}, and the nurse is with her."
        for i in range(sentences)
    )


@pytest.fixture(scope="module")
def look(tmp_path_factory):
    folder = tmp_path_factory.mktemp("look")
    texts = [make_text(number, 6 + number % 3) for number in range(12)]
    texts += ["Only a few words.", "And even fewer words here.", texts[3], texts[4] + " One sentence more, said once."]
    write_jsonl(
        folder / "texts.jsonl", [{"id": f"t{i:02d}", "text": t, "url": f"https://a{i % 2}.example/{i}"} for i, t in enumerate(texts)]
    )
    (folder / "look.toml").write_text(RECIPE)

    def invoke(*arguments, code=0):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("COLUMNS", "200")
            result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result

    invoke("run", "look.toml", "--workers", 1)
    return invoke


def answer(result):
    return json.loads(result.stdout)


def test_the_story_of_a_document_names_every_rule_its_value_and_its_threshold(look):
    story = answer(look("inspect", "look", "--id", "t12", "--json"))["story"]
    assert [(event["node"], event["what"]) for event in story if event["what"] != "judged"] == [
        ("extracted", "kept"),
        ("filtered", "dropped"),
    ]
    judged = next(event for event in story if event["what"] == "judged")
    broken = {rule["rule"]: rule for rule in judged["rules"] if rule["broken"]}
    assert broken["too_few_words"]["threshold"] == 50 and broken["too_few_words"]["value"] < 10
    shown = look("inspect", "look", "--why", "https://a0.example/12").stdout
    assert "too_few_words" in shown and "below 50" in shown and "broken" in shown


def test_the_story_of_a_duplicate_names_its_kept_twin(look):
    story = answer(look("inspect", "look", "--id", "t14", "--json"))["story"]
    dropped = next(event for event in story if event["what"] == "dropped")
    assert (dropped["rule"], dropped["kept_id"], dropped["value"]) == ("exact_duplicate", "t03", 1.0)


def test_what_if_shows_both_funnels_without_running_again(look):
    result = answer(look("inspect", "look/filtered", "--what-if", "too_few_words=2", "--json"))
    assert result["documents"] == 16 and result["kept_after"] - result["kept_before"] == len(result["gained"])
    assert result["dropped_before"]["too_few_words"] == 2 and "too_few_words" not in result["dropped_after"]
    assert "too_few_words" in look("inspect", "look/filtered", "--what-if", "too_few_words=2").stdout
    assert "did you mean" in look("inspect", "look/filtered", "--what-if", "too_few_wrds=2", code=2).stderr
    assert "RULE=NUMBER" in look("inspect", "look/filtered", "--what-if", "too_few_words", code=2).stderr


def test_samples_near_threshold_documents_histograms_and_counts_are_shown(look):
    assert len(answer(look("inspect", "look/filtered", "--dropped", "too_few_words", "--rows", 5, "--json"))["documents"]) == 2
    assert "Only a few words" in look("inspect", "look/filtered", "--dropped", "all", "--rows", 5).stdout
    assert len(answer(look("inspect", "look/filtered", "--kept", "--rows", 4, "--json"))["documents"]) == 4
    near = answer(look("inspect", "look/filtered", "--near", "too_few_words", "--json"))["documents"]
    assert any(row["value"] < 50 for row in near) and any(row["value"] >= 50 for row in near)
    assert sum(answer(look("inspect", "look/filtered", "--histogram", "words", "--json"))["kept"]) == 14
    assert "quantiles" in look("inspect", "look/filtered", "--histogram", "words").stdout
    assert answer(look("inspect", "look/extracted", "--by", "domain", "--json"))["rows"][0]["documents"] == 8


def test_clusters_show_how_the_texts_differ(look):
    clusters = answer(look("inspect", "look/unique", "--clusters", "--json"))["clusters"]
    assert {(cluster["kept"], cluster["size"]) for cluster in clusters} == {("t03", 2), ("t15", 2)}
    assert "One sentence more, said once." in look("inspect", "look/unique", "--clusters").stdout


def test_who_appears_with_what_is_measured(look):
    pairs = answer(look("inspect", "look/filtered", "--bias", "--json"))["pairs"]
    counted = {(row["identity"], row["attribute"]): row["pairs"] for row in pairs}
    assert counted["women", "nursing"] >= 14 * 6  # one in every sentence
    assert "women" in look("inspect", "look/filtered", "--bias").stdout


def test_a_look_that_cannot_be_is_told_how(look):
    assert "one look at a time" in look("inspect", "look/filtered", "--kept", "--clusters", code=2).stderr
    assert "name it look/ID" in look("inspect", "look", "--kept", code=2).stderr
    assert "filter stage" in look("inspect", "look/extracted", "--what-if", "too_few_words=3", code=2).stderr
    assert "dedup stage" in look("inspect", "look/filtered", "--clusters", code=1).stderr
