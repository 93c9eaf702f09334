"""The addresses of the corpus page over the smoke run's store: what they answer, and what they refuse."""

import pytest


def ask(web, path, **query):
    from urllib.parse import urlencode

    return web.ask(f"/api/corpus/{path}?{urlencode(query)}")


@pytest.fixture(scope="module")
def steps(web):
    status, answer = web.ask("/api/corpus/runs")
    assert status == 200 and answer["runs"][0]["stages"][:3] == ["crawl", "extract", "filter"]
    status, answer = ask(web, "funnel", run=answer["runs"][0]["id"])
    assert status == 200
    return {step["stage"]: step for step in answer["steps"]}


def test_the_funnel_counts_documents_bytes_and_tokens_stage_by_stage(steps):
    assert steps["filter"]["documents_in"] == steps["extract"]["documents_out"]
    assert steps["crawl"]["tokens_out"] is None  # its bytes are HTML
    assert steps["mix"]["tokens_out"] > 100_000 and not steps["mix"]["tokens_estimated"]
    assert steps["filter"]["tokens_out"] > steps["mix"]["tokens_out"] and steps["filter"]["tokens_estimated"]
    drops = [row["documents"] for row in steps["filter"]["drops"]]
    assert drops == sorted(drops, reverse=True) and sum(drops) == steps["filter"]["documents_in"] - steps["filter"]["documents_out"]


def test_a_dragged_threshold_changes_the_funnel(web, steps):
    artifact = steps["filter"]["artifact"]
    body = {"artifact": artifact, "thresholds": {"too_few_words": 500}}
    status, answer = web.ask("/api/corpus/what-if", method="POST", body=body)
    assert status == 200 and answer["after"]["documents_out"] < answer["before"]["documents_out"] == steps["filter"]["documents_out"]
    drops = [{name: drop[name] for name in ("rule", "documents")} for drop in steps["filter"]["drops"]]
    assert answer["before"]["dropped"] == drops and "too_few_words = 500.0" in answer["toml"]
    status, answer = ask(web, "histogram", artifact=artifact, rule="too_few_words")
    assert status == 200 and sum(answer["counts"]) == answer["documents"]
    assert ask(web, "rules", artifact=artifact)[1]["rules"][0]["keeps"] == "at least"
    kinds = [ask(web, "samples", artifact=artifact, kind=kind, rule="too_few_words", count=2) for kind in ("random", "near", "rule")]
    assert [(status, len(found["kept"]), len(found["dropped"])) for status, found in kinds] == [(200, 2, 2)] * 3


def test_documents_are_looked_at_one_by_one(web, steps):
    unique = steps["dedup"]["artifact"]
    status, answer = ask(web, "clusters", artifact=unique, limit=3)
    assert status == 200 and len(answer["clusters"]) == 3 <= answer["total"]
    status, answer = ask(web, "cluster", artifact=unique, cluster=answer["clusters"][0]["id"])
    assert status == 200 and {segment["op"] for segment in answer["others"][0]["segments"]} <= {"same", "removed", "added"}
    run = web.ask("/api/corpus/runs")[1]["runs"][0]["id"]
    status, story = ask(web, "story", run=run, document=answer["others"][0]["doc"]["url"])
    assert status == 200 and [event["what"] for event in story["events"] if event["stage"] == "dedup"] == ["cluster", "dropped"]
    status, story = ask(web, "story", run=run, document="https://pydoc.local/none.html")
    assert status == 200 and story["document"] is None and story["near"]
    status, answer = ask(web, "breakdown", artifact=steps["mix"]["artifact"], by="domain")
    assert status == 200 and [row["value"] for row in answer["rows"]] == ["pydoc.local"]


def test_what_cannot_be_answered_is_refused_with_the_reason(web, steps):
    filtered, unique = steps["filter"]["artifact"], steps["dedup"]["artifact"]
    for path, query, status, reason in [
        ("funnel", {"run": "0" * 16}, 404, "no such run"),
        ("funnel", {}, 400, "run: missing"),
        ("rules", {"artifact": "../../etc"}, 404, "no such artifact"),
        ("rules", {"artifact": unique}, 400, "those of a filter"),
        ("histogram", {"artifact": filtered, "rule": "too_few_wrds"}, 400, 'did you mean "too_few_words"'),
        ("samples", {"artifact": filtered, "kind": "best"}, 400, "not one of random, near, rule"),
        ("samples", {"artifact": filtered, "kind": "near"}, 400, "rule: missing"),
        ("samples", {"artifact": filtered, "count": 1000}, 400, "not between 0 and 50"),
        ("samples", {"artifact": filtered, "kind": "rule", "rule": "nobody"}, 400, "no document was dropped by"),
        ("clusters", {"artifact": filtered}, 400, "those of dedup"),
        ("cluster", {"artifact": unique, "cluster": "nobody"}, 404, "no such group"),
        ("pii", {"artifact": filtered}, 400, "those of redact"),
        ("breakdown", {"artifact": filtered, "by": "text"}, 400, "not one of language, domain, source"),
        ("story", {"run": "0" * 16, "document": "x"}, 404, "no such run"),
    ]:
        got, answer = ask(web, path, **query)
        assert (got, reason in answer["error"]["message"]) == (status, True), (path, query, answer)
    for body, reason in [
        ({"artifact": filtered, "thresholds": {"too_few_wrds": 1}}, "too_few_wrds"),
        ({"artifact": filtered, "thresholds": {"too_few_words": "many"}}, "thresholds.too_few_words"),
        ({"artifact": filtered, "thresholds": {}, "path": "/etc"}, "path"),
    ]:
        got, answer = web.ask("/api/corpus/what-if", method="POST", body=body)
        assert (got, reason in answer["error"]["message"]) == (400, True), (body, answer)
