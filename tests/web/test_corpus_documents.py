"""Documents of a run, one by one: groups of duplicates with their differences, replacements, what a corpus is made of, stories."""

import re

import pytest
from corpus_store import HOSTILE, make_store, node_path

from bloomery.chat.refusal import Refusal
from bloomery.curate.explore import document_files
from bloomery.curate.pii import KINDS, Span
from bloomery.curate.redact import fake, find_replacements
from bloomery.web.context import make_context
from bloomery.web.corpus.breakdown import break_down
from bloomery.web.corpus.clusters import compare, list_clusters, show_cluster
from bloomery.web.corpus.funnel import Shelf
from bloomery.web.corpus.memory import Memory
from bloomery.web.corpus.privacy import show_replacements
from bloomery.web.corpus.story import show_story
from bloomery.web.directory import opaque_id


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def shelf(store):
    return Shelf(make_context(store).directory, Memory())


@pytest.fixture
def id_of(store):
    return lambda node: opaque_id("artifact", node_path(store, node).name)


RUN = opaque_id("run", "look")


def test_groups_of_duplicates_have_their_members_with_urls_and_the_differences_marked(shelf, id_of):
    listed = list_clusters(shelf, id_of("unique"), offset=0, limit=50)
    assert listed["total"] == len(listed["clusters"]) >= 2
    sizes = [cluster["size"] for cluster in listed["clusters"]]
    assert sizes == sorted(sizes, reverse=True)
    assert list_clusters(shelf, id_of("unique"), offset=1, limit=1)["clusters"] == listed["clusters"][1:2]
    group = next(cluster for cluster in listed["clusters"] if cluster["id"] == "t41")
    assert [member["kept"] for member in group["members"]] == [True, *[False] * (group["size"] - 1)]
    assert {member["id"]: member["url"] for member in group["members"]}["t17"] == "https://a1.example/17"
    shown = show_cluster(shelf, id_of("unique"), "t41")
    assert shown["kept"]["text"].endswith("One sentence more, said once.") and shown["size"] == group["size"]
    other = next(other for other in shown["others"] if other["doc"]["id"] == "t17")
    assert [segment["op"] for segment in other["segments"]] == ["same", "removed"]
    assert other["segments"][1]["text"] == "One sentence more, said once."
    with pytest.raises(Refusal, match="no such group"):
        show_cluster(shelf, id_of("unique"), "t02")
    with pytest.raises(Refusal, match="those of dedup"):
        list_clusters(shelf, id_of("filtered"), offset=0, limit=5)


def test_a_difference_far_behind_is_shown_with_a_little_before_it():
    same = " ".join(f"word{i}" for i in range(3000))
    skipped, segments = compare(f"{same} old end", f"{same} new end")
    assert skipped > 10_000 and [segment["op"] for segment in segments] == ["same", "removed", "added", "same"]
    assert (segments[1]["text"], segments[2]["text"]) == ("old ", "new ") and len(segments[0]["text"]) < 400
    assert same.startswith(same[:skipped] + segments[0]["text"].rstrip())


def test_replacements_of_personal_data_are_counted_and_marked(shelf, id_of):
    shown = show_replacements(shelf, id_of("private"), seed=0, count=5)
    assert {row["kind"]: row["replacements"] for row in shown["kinds"]} == {**dict.fromkeys(KINDS, 0), "email": 1, "phone": 1}
    (sample,) = shown["samples"]
    assert [(piece["text"], piece["kind"]) for piece in sample["segments"] if piece["kind"]] == [("<EMAIL>", "email"), ("<PHONE>", "phone")]
    assert "jane.doe" not in str(shown) and "Write to " in sample["segments"][0]["text"]
    with pytest.raises(Refusal, match="those of redact"):
        show_replacements(shelf, id_of("unique"), seed=0, count=5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_fake_is_found_again_where_it_stands(kind):
    for label in ("", "ipv6") if kind == "ip" else ("", "us_ssn") if kind == "national_id" else ("",):
        for seed in range(5):
            value = fake(Span(kind, 0, 5, label), "value", seed=seed)
            found = find_replacements(f"Before {value} after.", "fake")
            assert [(span.kind, span.start, span.end) for span in found] == [(kind, 7, 7 + len(value))]


def test_a_breakdown_says_how_many_documents_and_bytes_each_value_has(shelf, store, id_of):
    shown = break_down(shelf, id_of("extracted"), by="language", limit=2)
    assert [(row["value"], row["documents"]) for row in shown["rows"]] == [("en", 29), ("de", 14)]
    assert shown["others"]["values"] == 1 and shown["others"]["documents"] == 1 and not shown["bytes_estimated"]
    size = shelf.record(node_path(store, "extracted"))["metrics"]["bytes_out"]
    assert sum(row["bytes"] for row in shown["rows"]) + shown["others"]["bytes"] == size
    assert {row["value"] for row in break_down(shelf, id_of("extracted"), by="domain", limit=9)["rows"]} == {"a0.example", "a1.example"}
    assert sum(row["share"] for row in break_down(shelf, id_of("private"), by="source", limit=9)["rows"]) == pytest.approx(1)


def test_bytes_of_large_texts_are_estimated_from_measured_characters_or_not_told(shelf, id_of, monkeypatch):
    exact = break_down(shelf, id_of("filtered"), by="language", limit=9)
    monkeypatch.setattr("bloomery.web.corpus.breakdown.MAX_TEXT_BYTES", 10)
    guessed = break_down(Shelf(shelf.directory, Memory()), id_of("filtered"), by="language", limit=9)
    assert guessed["bytes_estimated"] and [row["bytes"] for row in guessed["rows"]] == pytest.approx(
        [row["bytes"] for row in exact["rows"]], rel=0.01
    )
    unknown = break_down(Shelf(shelf.directory, Memory()), id_of("extracted"), by="language", limit=1)
    assert unknown["rows"][0]["bytes"] is None and unknown["others"]["bytes"] is None and unknown["rows"][0]["documents"] == 29


def test_the_story_of_a_url_goes_from_stage_to_stage_with_every_rule(shelf):
    story = show_story(shelf, RUN, "https://a0.example/42")
    assert story["document"] == {"id": "t42", "url": "https://a0.example/42"} and story["near"] == []
    assert [(event["node"], event["what"]) for event in story["events"]] == [
        ("extracted", "kept"), ("filtered", "kept"), ("filtered", "judged"), ("unique", "kept"), ("private", "kept"),
    ]  # fmt: skip
    assert story["events"][0]["text"].startswith(HOSTILE.strip())  # as it is: it is the page that must show it as text
    judged = {rule["name"]: rule for rule in story["events"][2]["rules"]}
    assert (
        judged["too_few_words"]["passed"]
        and judged["too_few_words"]["keeps"] == "at least"
        and judged["too_few_words"]["signal"] == "words"
    )
    short = show_story(shelf, RUN, "t36")["events"]
    assert [(event["node"], event["what"], event.get("rule")) for event in short] == [
        ("extracted", "kept", None), ("filtered", "dropped", "too_few_words"), ("filtered", "judged", None),
    ]  # fmt: skip
    assert short[1]["threshold"] == 20 and not next(rule for rule in short[2]["rules"] if rule["name"] == "too_few_words")["passed"]
    twin = show_story(shelf, RUN, "t17")["events"]
    assert [event["kept_id"] for event in twin if event["what"] == "dropped"] == ["t41"]
    assert [event["cluster"] for event in twin if event["what"] == "cluster"] == ["t41"]


def test_what_is_asked_for_is_compared_literally_and_what_begins_alike_is_offered(shelf):
    for pattern in (".*", "https://a0.example/4[0-9]", "t%", "t4_", "https://a0.example/42'--"):
        assert show_story(shelf, RUN, pattern)["events"] == []
    assert {row["url"] for row in show_story(shelf, RUN, "https://a0.example/777")["near"]} <= {
        f"https://a0.example/{i}" for i in range(44)
    }
    assert len(show_story(shelf, RUN, "https://a0.example/deep/er/page.html")["near"]) == 8
    assert show_story(shelf, RUN, "https://nowhere.example/")["near"] == []
    several = show_story(shelf, RUN, "t4")
    assert several["document"]["id"] == "t40" and [row["id"] for row in several["near"]] == ["t41", "t42", "t43"]


def test_no_text_is_read_to_find_documents(shelf, store, monkeypatch):
    import pyarrow.parquet as pq

    read = []
    original = pq.ParquetFile.read

    def watched(self, *arguments, columns=None, **named):
        read.append(columns)
        return original(self, *arguments, columns=columns, **named)

    monkeypatch.setattr(pq.ParquetFile, "read", watched)
    show_story(shelf, RUN, "t42")
    assert read and all(columns and set(columns) <= {"id", "url"} for columns in read)
    assert all(re.fullmatch(r"\d{5}\.parquet", path.name) for path in document_files(node_path(store, "extracted")))
