"""The arena's API over a real server: what a voting browser may know, errors that say what to do, fifty annotators at once."""

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from bloomery.core.votes import parse_item
from bloomery.web.app import make_web_app
from bloomery.web.context import make_context
from bloomery.web.guard import Access
from bloomery.web.labels import tables as t


class Client:
    """The application in this process, asked as a program with the token would ask it."""

    def __init__(self, store, labels):
        self._client = TestClient(make_web_app(make_context(store, labels=labels), Access(token="token")), base_url="http://127.0.0.1")

    def ask(self, path, *, method="GET", body=None):
        answer = self._client.request(method, path, json=body, headers={"Authorization": "Bearer token"})
        return answer.status_code, answer.json() if answer.headers["content-type"] == "application/json" else answer.text


@pytest.fixture
def server(database_url, tmp_path):
    return Client(tmp_path / "runs", database_url)


def join(server, name="ann"):
    status, answer = server.ask("/api/arena/annotators", method="POST", body={"name": name})
    assert status == 200
    return answer["key"]


def next_of(server, campaign, annotator):
    status, turn = server.ask(f"/api/arena/campaigns/{campaign.key}/next", method="POST", body={"annotator": annotator})
    assert status == 200
    return turn


def vote(server, annotator, comparison, client_id="click", choice="left", **more):
    body = {"annotator": annotator, "comparison": comparison, "client_id": client_id, "choice": choice, "milliseconds": 900, **more}
    return server.ask("/api/arena/votes", method="POST", body=body)


def test_nothing_that_is_read_before_a_vote_names_a_model(server, make_campaign):
    campaign = make_campaign()
    ann = join(server)
    said = [
        server.ask("/api/arena/campaigns"),
        server.ask(f"/api/arena/campaigns/{campaign.key}"),
        next_of(server, campaign, ann),
    ]
    for model in campaign.models:
        assert model.name not in json.dumps(said) and model.fingerprint not in json.dumps(said)
    status, answer = server.ask("/api/arena/reveal", method="POST", body={"annotator": ann, "comparison": said[2]["shown"]["key"]})
    assert status == 409 and "after the vote" in answer["error"]["message"]


def test_a_vote_is_created_once_found_again_and_refused_when_it_differs(server, make_campaign, database):
    campaign, ann = make_campaign(), join(server)
    comparison = next_of(server, campaign, ann)["shown"]["key"]
    assert [vote(server, ann, comparison)[0] for _ in range(2)] == [201, 200]
    status, answer = vote(server, ann, comparison, client_id="other", choice="tie")
    assert status == 409 and "already (left)" in answer["error"]["message"]
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(t.vote)).scalar_one() == 1


def test_what_cannot_be_a_vote_is_refused_with_the_reason(server, make_campaign):
    campaign, ann = make_campaign(prompts=1), join(server)
    comparison = next_of(server, campaign, ann)["shown"]["key"]
    for change, expected in (
        ({"choice": "best"}, "choice"),
        ({"milliseconds": -1}, "milliseconds"),
        ({"milliseconds": 10**12}, "milliseconds"),
        ({"client_id": "'; DROP TABLE vote; --"}, "client_id"),
        ({"choice": "ranking", "ranks": [1, 2]}, "not how a pair is judged"),
        ({"comparison": "0" * 32}, "no such comparison"),
        ({"annotator": "0" * 32}, "no such comparison"),
        ({"extra": 1}, "extra"),
    ):
        body = {"annotator": ann, "comparison": comparison, "client_id": "click", "choice": "left", "milliseconds": 1, **change}
        status, answer = server.ask("/api/arena/votes", method="POST", body=body)
        assert status == 400 and expected in answer["error"]["message"], change
    assert server.ask("/api/arena/campaigns/nothing")[0] == 400
    assert server.ask("/api/arena/annotators", method="POST", body={"name": " "})[0] == 400
    assert server.ask(f"/api/arena/campaigns/{campaign.key}/export?format=exe")[0] == 400


def test_an_export_is_what_training_reads_and_a_table_holds_no_formula(server, make_campaign):
    campaign = make_campaign(prompts=2, answer=lambda model, *_: "=HYPERLINK(1)" if model else "-1+1")
    ann = join(server, "@sum(A1)")
    for number in range(2):
        assert vote(server, ann, next_of(server, campaign, ann)["shown"]["key"], client_id=f"c{number}")[0] == 201
    path = f"/api/arena/campaigns/{campaign.key}/export"
    lines = server.ask(path)[1].splitlines()
    assert [parse_item(json.loads(line)).votes[0].annotator for line in lines] == ["@sum(A1)"] * 2
    assert server.ask(path)[1].splitlines() == lines
    rows = list(csv.DictReader(io.StringIO(server.ask(f"{path}?format=csv")[1], newline="")))
    assert len(rows) == 2 and rows[0]["annotator"] == "'@sum(A1)"
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def test_results_say_when_there_is_not_enough_and_are_finite_all_the_same(server, make_campaign):
    campaign, ann = make_campaign(prompts=3, overlap=2), join(server)
    path = f"/api/arena/campaigns/{campaign.key}/results"
    assert server.ask(path)[1]["ratings"] is None
    for number in range(3):
        shown = next_of(server, campaign, ann)["shown"]
        choice = "left" if shown["answers"][0].startswith("answer 1") else "right"
        vote(server, ann, shown["key"], client_id=f"c{number}", choice=choice)
    found = server.ask(path)[1]
    assert "3 of at least 30" in found["missing"] and found["prior_ties"] == 1.0
    best = found["ratings"]["standings"][0]
    assert (best["name"], best["wins"]) == ("run/dpo", 3) and best["rating"]["low"] < best["rating"]["value"]
    assert best["rating"]["value"] < best["rating"]["high"] < 2000
    assert found["agreement"]["krippendorff_alpha"]["value"] is None


def test_fifty_annotators_over_http_lose_nothing(database_url, tmp_path, serve_web, make_campaign, database):
    campaign = make_campaign(prompts=50, overlap=3)
    with serve_web(tmp_path / "runs", "--labels", database_url) as server:
        acknowledged = annotate_at_once(server, campaign, 50)
    with database.read() as connection:
        kept = list(connection.execute(sa.select(t.vote.c.client_id)).scalars())
    assert len(acknowledged) == 150 and sorted(kept) == sorted(acknowledged)


def annotate_at_once(server, campaign, number_of_annotators):

    def annotate(number):
        ann, kept = join(server, f"annotator {number}"), []
        while len(kept) < 3 and (shown := next_of(server, campaign, ann)["shown"]) is not None:
            # Every third click is sent twice at once, as a retry over a slow line would be.
            with ThreadPoolExecutor(2) as clicks:
                sent = [clicks.submit(vote, server, ann, shown["key"], f"{number}-{len(kept)}") for _ in range(1 + (number % 3 == 0))]
                assert {one.result()[0] for one in sent} <= {200, 201}
            kept.append(f"{number}-{len(kept)}")
        return kept

    with ThreadPoolExecutor(number_of_annotators) as pool:
        return [client_id for kept in pool.map(annotate, range(number_of_annotators)) for client_id in kept]


def test_a_store_without_votes_gets_no_file_for_them_by_being_looked_at(tmp_path):
    assert Client(tmp_path / "runs", "").ask("/api/arena/campaigns") == (200, {"campaigns": []})
    assert not (tmp_path / "runs" / "labels.sqlite").exists()
