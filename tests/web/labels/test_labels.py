"""The labels database, the same on SQLite and on PostgreSQL: every vote that was acknowledged is there once."""

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from bloomery.core.errors import BloomeryError, ConfigError, DataError
from bloomery.web.labels import tables as t
from bloomery.web.labels.campaigns import (
    CampaignSettings,
    ModelName,
    count_answers,
    create_campaign,
    find_campaign,
    list_campaigns,
    missing_answers,
    set_open,
)
from bloomery.web.labels.database import open_database
from bloomery.web.labels.reading import export_items, read_judgements, read_progress
from bloomery.web.labels.voting import Conflict, cast_vote, join_annotator, next_turn, reveal, set_quota, undo_vote


def vote_on(database, shown, annotator, choice="left", client_id="", **more):
    client_id = client_id or secrets.token_hex(8)
    return cast_vote(database, comparison=shown.key, annotator=annotator.key, client_id=client_id, choice=choice, milliseconds=1500, **more)


def vote_through(database, campaign, annotator, choose=lambda shown: "left"):
    """Everything that this annotator is shown, until there is nothing more; what was shown."""
    seen = []
    while (turn := next_turn(database, campaign.key, annotator.key)).shown is not None:
        vote_on(database, turn.shown, annotator, choose(turn.shown))
        seen.append(turn.shown)
    return seen, turn


def count(database, table):
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_what_is_shown_before_a_vote_has_no_trace_of_the_models(database, make_campaign):
    campaign, ann = make_campaign(), join_annotator(database, "ann")
    turn = next_turn(database, campaign.key, ann.key)
    assert turn.shown._fields == ("key", "messages", "answers")
    assert sorted(turn.shown.answers) == [f"answer {i}.0 to {turn.shown.messages[0]['content']}" for i in range(2)]
    assert not any(model.name in repr(turn) or model.fingerprint in repr(turn) for model in campaign.models)
    with pytest.raises(Conflict, match="after the vote"):
        reveal(database, comparison=turn.shown.key, annotator=ann.key)


def test_the_order_is_drawn_anew_for_every_item_and_annotator_and_kept(database, make_campaign):
    campaign = make_campaign(prompts=20, overlap=2)
    orders = {}
    for name in ("ann", "bob"):
        seen, _ = vote_through(database, campaign, join_annotator(database, name))
        orders[name] = {shown.messages[0]["content"]: shown.answers[0].startswith("answer 0") for shown in seen}
    # The campaign's key is drawn, so these are coins: 40 of them lie outside these bounds once in ten million times.
    lefts = [is_left for of_one in orders.values() for is_left in of_one.values()]
    assert len(lefts) == 40 and 5 <= sum(lefts) <= 35 and orders["ann"] != orders["bob"]
    with database.read() as connection:
        rows = connection.execute(sa.select(t.comparison.c.seed, t.comparison.c.shown)).all()
    import random

    for seed, shown in rows:
        order = [0, 1]
        random.Random(seed).shuffle(order)
        assert shown == ",".join(map(str, order))


def test_a_vote_for_the_left_place_is_kept_for_the_answer_that_stood_there(database, make_campaign):
    campaign, ann = make_campaign(prompts=12), join_annotator(database, "ann")
    vote_through(database, campaign, ann, lambda shown: "left" if shown.answers[0].startswith("answer 1") else "right")
    judged = read_judgements(database, campaign)
    assert len(judged) == 12
    for one in judged:
        assert one.ranks[one.models.index("run/dpo")] == 1 and one.ranks[one.models.index("run/sft")] == 2


def test_a_reloaded_page_shows_the_same_comparison_until_it_is_voted_on(database, make_campaign):
    campaign, ann = make_campaign(), join_annotator(database, "ann")
    first, again = next_turn(database, campaign.key, ann.key), next_turn(database, campaign.key, ann.key)
    assert first == again
    vote_on(database, first.shown, ann)
    assert next_turn(database, campaign.key, ann.key).shown.key != first.shown.key


def test_a_retried_click_is_one_vote_and_gives_the_same_answer(database, make_campaign):
    campaign, ann = make_campaign(), join_annotator(database, "ann")
    shown = next_turn(database, campaign.key, ann.key).shown
    first = vote_on(database, shown, ann, "right", "click-1")
    again = vote_on(database, shown, ann, "right", "click-1")
    assert first.is_new and not again.is_new and first.choice == again.choice == "right"
    assert count(database, t.vote) == 1


def test_a_second_click_with_another_id_is_refused_and_says_what_was_said(database, make_campaign):
    campaign, ann = make_campaign(), join_annotator(database, "ann")
    shown = next_turn(database, campaign.key, ann.key).shown
    vote_on(database, shown, ann, "both_bad", "click-1")
    with pytest.raises(Conflict, match="both bad"):
        vote_on(database, shown, ann, "left", "click-2")
    assert count(database, t.vote) == 1


def test_many_tabs_clicking_at_once_are_one_vote(database, make_campaign):
    campaign, ann = make_campaign(), join_annotator(database, "ann")
    shown = next_turn(database, campaign.key, ann.key).shown
    gate = threading.Barrier(8)

    def click(number):
        gate.wait()
        try:
            return vote_on(database, shown, ann, "left", f"click-{number // 2}")
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        heard = [one for one in pool.map(click, range(8)) if one is not None]
    assert count(database, t.vote) == 1 and 1 <= len(heard) <= 2 and len({one.client_id for one in heard}) == 1


def test_fifty_annotators_at_once_lose_nothing(database, make_campaign):
    campaign = make_campaign(prompts=40, overlap=3)
    acknowledged, failures, lock = [], [], threading.Lock()

    def annotate(number):
        ann = join_annotator(database, f"annotator {number}")
        for _ in range(4):
            turn = next_turn(database, campaign.key, ann.key)
            if turn.shown is None:
                return
            client_id = f"{number}-{turn.shown.key}"
            try:
                vote_on(database, turn.shown, ann, "left", client_id)
            except BloomeryError as error:
                with lock:
                    failures.append(error)
            else:
                with lock:
                    acknowledged.append(client_id)

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(annotate, range(50)))
    with database.read() as connection:
        kept = list(connection.execute(sa.select(t.vote.c.client_id)).scalars())
    assert failures == [] and sorted(kept) == sorted(acknowledged) and len(kept) == len(set(kept))
    # 40 items wanted by three each: nobody was given an item that three others had.
    assert len(kept) == 120
    progress = read_progress(database, campaign)
    assert progress.finished == 40 and progress.votes == 120


def test_overlap_gives_an_item_to_so_many_annotators_and_never_twice_to_one(database, make_campaign):
    campaign = make_campaign(prompts=4, overlap=2)
    for name in ("ann", "bob", "eve"):
        _, turn = vote_through(database, campaign, join_annotator(database, name))
        assert turn.reason == "finished"
    voters = {}
    for one in read_judgements(database, campaign):
        voters.setdefault(one.item, []).append(one.annotator)
    assert list(map(sorted, voters.values())) == [["ann", "bob"]] * 4


def test_items_that_others_began_come_first(database, make_campaign):
    campaign = make_campaign(prompts=30, overlap=2)
    ann, bob = join_annotator(database, "ann"), join_annotator(database, "bob")
    begun = set()
    for _ in range(3):
        shown = next_turn(database, campaign.key, ann.key).shown
        begun.add(shown.messages[0]["content"])
        vote_on(database, shown, ann)
    met = set()
    for _ in range(3):
        shown = next_turn(database, campaign.key, bob.key).shown
        met.add(shown.messages[0]["content"])
        vote_on(database, shown, bob)
    assert met == begun


def test_an_item_that_is_on_somebodys_screen_is_not_given_to_another_until_it_is_abandoned(database, make_campaign):
    campaign = make_campaign(prompts=1)
    ann, bob = join_annotator(database, "ann"), join_annotator(database, "bob")
    next_turn(database, campaign.key, ann.key)
    assert next_turn(database, campaign.key, bob.key).reason == "finished"
    with database.write() as connection:
        connection.execute(sa.update(t.comparison).values(created_at="2026-01-01T00:00:00.000+00:00"))
    assert next_turn(database, campaign.key, bob.key).shown is not None


def test_a_skipped_item_goes_to_somebody_else_and_counts_for_no_quota(database, make_campaign):
    campaign = make_campaign(prompts=1, quota=1)
    ann, bob = join_annotator(database, "ann"), join_annotator(database, "bob")
    vote_on(database, next_turn(database, campaign.key, ann.key).shown, ann, "skip")
    turn = next_turn(database, campaign.key, ann.key)
    assert (turn.shown, turn.reason, turn.voted) == (None, "finished", 0)
    vote_on(database, next_turn(database, campaign.key, bob.key).shown, bob)
    assert read_progress(database, campaign).skips == 1 and len(read_judgements(database, campaign)) == 1


def test_a_quota_ends_an_annotators_work_and_ones_own_quota_goes_before_the_campaigns(database, make_campaign):
    campaign = make_campaign(prompts=6, quota=2)
    for name, quota, expected in (("ann", None, 2), ("bob", 3, 3)):
        annotator = join_annotator(database, name)
        set_quota(database, name, quota)
        seen, turn = vote_through(database, campaign, annotator)
        assert len(seen) == expected and turn.reason == "quota"
    with pytest.raises(DataError, match="nobody"):
        set_quota(database, "nobody", 1)


def test_an_undone_vote_stays_in_the_table_counts_nowhere_and_may_be_cast_again(database, make_campaign):
    campaign, ann = make_campaign(prompts=1), join_annotator(database, "ann")
    shown = next_turn(database, campaign.key, ann.key).shown
    first = vote_on(database, shown, ann, "left")
    assert undo_vote(database, annotator=ann.key, vote=first.client_id, client_id="undo-1")
    assert not undo_vote(database, annotator=ann.key, vote=first.client_id, client_id="undo-2")
    assert read_judgements(database, campaign) == [] and list(export_items(database, campaign)) == []
    again = next_turn(database, campaign.key, ann.key)
    assert again.shown == shown and again.voted == 0
    second = vote_on(database, shown, ann, "right")
    assert count(database, t.vote) == 2 and count(database, t.undo) == 1
    assert next_turn(database, campaign.key, ann.key).last_vote == second.client_id
    assert read_progress(database, campaign).annotators[0].undone == 1


def test_an_undone_comparison_comes_back_before_the_one_that_was_shown_after_it(database, make_campaign):
    campaign, ann = make_campaign(), join_annotator(database, "ann")
    first = next_turn(database, campaign.key, ann.key).shown
    vote = vote_on(database, first, ann)
    second = next_turn(database, campaign.key, ann.key).shown
    undo_vote(database, annotator=ann.key, vote=vote.client_id, client_id="undo")
    assert next_turn(database, campaign.key, ann.key).shown == first
    vote_on(database, first, ann)
    assert next_turn(database, campaign.key, ann.key).shown == second


def test_nobody_undoes_or_sees_what_is_anothers(database, make_campaign):
    campaign, ann, bob = make_campaign(), join_annotator(database, "ann"), join_annotator(database, "bob")
    shown = next_turn(database, campaign.key, ann.key).shown
    mine = vote_on(database, shown, ann)
    for forbidden in (
        lambda: undo_vote(database, annotator=bob.key, vote=mine.client_id, client_id="x"),
        lambda: reveal(database, comparison=shown.key, annotator=bob.key),
        lambda: vote_on(database, shown, bob),
        lambda: next_turn(database, campaign.key, "0" * 32),
        lambda: next_turn(database, "' OR 1=1 --", ann.key),
    ):
        with pytest.raises(DataError):
            forbidden()


def test_names_are_shown_after_the_vote_and_a_vote_after_that_is_kept_but_not_blind(database, make_campaign):
    campaign, ann = make_campaign(prompts=1), join_annotator(database, "ann")
    shown = next_turn(database, campaign.key, ann.key).shown
    vote = vote_on(database, shown, ann)
    names = reveal(database, comparison=shown.key, annotator=ann.key)
    assert names == ["run/sft" if answer.startswith("answer 0") else "run/dpo" for answer in shown.answers]
    undo_vote(database, annotator=ann.key, vote=vote.client_id, client_id="undo")
    vote_on(database, shown, ann, "right")
    assert read_judgements(database, campaign) == [] and list(export_items(database, campaign)) == []
    assert read_progress(database, campaign).votes == 1


def test_a_closed_campaign_takes_no_votes_and_an_opened_one_does(database, make_campaign):
    campaign, ann = make_campaign(), join_annotator(database, "ann")
    shown = next_turn(database, campaign.key, ann.key).shown
    set_open(database, campaign.key, is_open=False)
    assert next_turn(database, campaign.key, ann.key).reason == "closed"
    with pytest.raises(Conflict, match="closed"):
        vote_on(database, shown, ann)
    set_open(database, campaign.key, is_open=True)
    assert vote_on(database, shown, ann).is_new


def test_a_ranking_of_shown_places_is_kept_as_ranks_of_answers_with_ties(database, make_campaign):
    models = [ModelName(name, name) for name in "wxyz"]
    campaign, ann = make_campaign(kind="ranking", answers_per_item=4, models=models), join_annotator(database, "ann")
    shown = next_turn(database, campaign.key, ann.key).shown
    worth = {f"answer {i}.0": rank for i, rank in enumerate([4, 1, 2, 2])}
    ranks = [worth[answer.split(" to ")[0]] for answer in shown.answers]
    vote_on(database, shown, ann, "ranking", ranks=ranks)
    (judged,) = read_judgements(database, campaign)
    # 4 becomes 3: ranks are dense.
    assert dict(zip(judged.models, judged.ranks, strict=True)) == {"w": 3, "x": 1, "y": 2, "z": 2}
    for choice, wrong in (("left", []), ("ranking", [1, 2]), ("ranking", [1, 2, 3, 9]), ("ranking", [2, 2, 3, 4])):
        other = next_turn(database, campaign.key, ann.key).shown
        with pytest.raises(DataError, match=r"ranks|choice"):
            vote_on(database, other, ann, choice, ranks=wrong)


def test_answers_of_one_text_are_a_tie_that_nobody_is_asked_about(database, make_campaign):
    campaign, ann = make_campaign(prompts=2, answer=lambda model, prompt, sample: "same" if prompt.endswith("0") else f"{model}"), None
    ann = join_annotator(database, "ann")
    seen, _ = vote_through(database, campaign, ann)
    assert [shown.messages[0]["content"] for shown in seen] == ["prompt 1"]
    assert {(one.annotator, one.choice) for one in read_judgements(database, campaign)} == {
        ("", "tie"),
        ("ann", read_judgements(database, campaign)[0].choice),
    }
    assert read_progress(database, campaign).identical == 1 and len(list(export_items(database, campaign))) == 1


def test_uncertain_pairs_are_shown_more_often_than_decided_ones(database, make_campaign):
    models = [ModelName(name, name) for name in ("best", "worst", "new")]
    campaign = make_campaign(prompts=60, models=models)
    ann, bob = join_annotator(database, "ann"), join_annotator(database, "bob")
    # ann is certain about best against worst, and sees nothing else.
    with database.write() as connection:
        contest = connection.execute(sa.select(t.item.c.contest).order_by(t.item.c.id)).scalars().first()
        items = list(connection.execute(sa.select(t.item.c.id).where(t.item.c.contest == contest).limit(30)).scalars())
        for item in items:
            comparison = connection.execute(
                sa.insert(t.comparison)
                .values(key=secrets.token_hex(16), item_id=item, annotator_id=ann.id, seed=0, shown="0,1", created_at="2026")
                .returning(t.comparison.c.id)
            ).scalar_one()
            values = {"choice": "a", "ranks": "1,2", "milliseconds": 1, "is_blind": True, "created_at": "2026"}
            connection.execute(sa.insert(t.vote).values(comparison_id=comparison, round=0, client_id=f"seeded {item}", **values))
    met = {"decided": 0, "other": 0}
    for _ in range(20):
        shown = next_turn(database, campaign.key, bob.key).shown
        is_decided = not any(answer.startswith("answer 2") for answer in shown.answers)
        met["decided" if is_decided else "other"] += 1
        vote_on(database, shown, bob, "tie")
    assert met["other"] >= 17


def test_hostile_texts_come_back_as_they_were_but_nul_and_surrogates(database, make_campaign):
    hostile = "<script>alert(1)</script> ' ; DROP TABLE vote; -- \u2028 \U0001f600 \r\n"
    campaign = make_campaign(prompts=1, name="'; DROP TABLE vote; --", answer=lambda model, *_: hostile + ("\x00" if model else "\ud800"))
    ann = join_annotator(database, "=HYPERLINK(1)")
    shown = next_turn(database, campaign.key, ann.key).shown
    assert set(shown.answers) <= {hostile + "\ufffd", hostile + "?", hostile + "\ufffd\ufffd\ufffd"}
    vote_on(database, shown, ann)
    assert find_campaign(database, "'; DROP TABLE vote; --").key == campaign.key


def test_answers_are_made_once_and_what_is_missing_is_known(database):
    prompts = [[{"role": "user", "content": text}] for text in ("one", "two", "one")]
    models = [ModelName("a", "1"), ModelName("b", "2")]
    campaign = create_campaign(database, CampaignSettings(name="x", samples=2), models=models, prompts=prompts)
    assert count_answers(database, campaign) == (0, 8)  # the equal prompt counts once
    found = missing_answers(database, campaign, models[0], at_most=3)
    assert [(one.messages[0]["content"], one.sample) for one in found] == [("one", 0), ("one", 1), ("two", 0)]
    assert len({one.seed for one in found}) == 3
    ann = join_annotator(database, "ann")
    assert next_turn(database, campaign.key, ann.key).reason == "no_answers"


def test_a_campaign_that_compares_nothing_is_refused_with_the_reason(database):
    prompts, model = [[{"role": "user", "content": "one"}]], ModelName("a", "1")
    with pytest.raises(ConfigError, match="samples = 2"):
        create_campaign(database, CampaignSettings(name="x"), models=[model], prompts=prompts)
    with pytest.raises(ConfigError, match="1 models x 2 samples are 2"):
        create_campaign(
            database, CampaignSettings(name="x", kind="ranking", answers_per_item=4, samples=2), models=[model], prompts=prompts
        )
    with pytest.raises(ConfigError, match="each once"):
        create_campaign(database, CampaignSettings(name="x"), models=[model, model], prompts=prompts)
    with pytest.raises(ConfigError, match="needs prompts"):
        create_campaign(database, CampaignSettings(name="x", samples=2), models=[model], prompts=[])
    create_campaign(database, CampaignSettings(name="x", samples=2), models=[model], prompts=prompts)
    with pytest.raises(ConfigError, match="'x' already"):
        create_campaign(database, CampaignSettings(name="x", samples=2), models=[model], prompts=prompts)
    assert [campaign.settings.name for campaign in list_campaigns(database)] == ["x"]


def test_a_name_is_one_annotator_however_often_and_fast_it_is_typed(database):
    with ThreadPoolExecutor(8) as pool:
        keys = {one.key for one in pool.map(lambda _: join_annotator(database, "  ann   lee "), range(8))}
    assert len(keys) == 1 and join_annotator(database, "ann lee").name == "ann lee"
    with pytest.raises(DataError, match="1 to 80"):
        join_annotator(database, " ")


def test_an_export_is_the_same_twice_and_holds_what_was_voted(database, make_campaign):
    campaign = make_campaign(prompts=5, overlap=2)
    for name in ("bob", "Ann"):
        vote_through(
            database, campaign, join_annotator(database, name), lambda shown: "left" if shown.answers[0].startswith("answer 1") else "right"
        )
    first, second = ([item.record() for item in export_items(database, campaign)] for _ in range(2))
    assert first == second and len(first) == 5
    for number, item in enumerate(first):
        assert item["prompt"][0]["content"] == f"prompt {number}" and [vote["annotator"] for vote in item["votes"]] == ["Ann", "bob"]
        best = item["votes"][0]["ranks"].index(1)
        assert item["models"][best] == "run/dpo" and item["completions"][best].startswith("answer 1")


def test_votes_are_there_after_the_database_is_opened_again(database_url, database, make_campaign):
    campaign, ann = make_campaign(), join_annotator(database, "ann")
    vote_through(database, campaign, ann)
    other = open_database(database_url)
    assert read_judgements(other, campaign) == read_judgements(database, campaign) and len(read_judgements(other, campaign)) == 3
    other.close()
