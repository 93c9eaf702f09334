"""Who is held out, how often a document is taken, and in which order: all by hash, all exact in the long run."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.core.config import check_config
from bloomery.curate.mixture import MixConfig, choose_limit, copy_key, epochs_of_inputs, is_validation, num_copies, place_document

IDS = [f"document-{i}" for i in range(20_000)]


def test_the_held_out_share_is_right_and_grows_without_moving_anyone_back():
    small = {id for id in IDS if is_validation(id, fraction=0.02)}
    large = {id for id in IDS if is_validation(id, fraction=0.05)}
    assert len(small) == pytest.approx(400, abs=80)
    assert small < large
    assert not any(is_validation(id, fraction=0.0) for id in IDS)


@pytest.mark.parametrize("epochs", [0.0, 0.3, 1.0, 2.6])
def test_an_input_gets_its_bytes_to_within_one_document(epochs):
    keys = np.array([copy_key(id, seed=0) for id in IDS], np.uint64)
    sizes = np.array([1 + 7919 * i % 5000 for i in range(len(IDS))])
    limit = choose_limit(keys, sizes, epochs=epochs)
    copies = np.array([num_copies(id, epochs=epochs, limit=limit, seed=0) for id in IDS])
    assert abs(int((copies * sizes).sum()) - epochs * sizes.sum()) <= sizes.max()
    assert set(copies) <= {int(epochs), int(epochs) + 1}


def test_a_fraction_takes_the_same_documents_however_the_input_is_cut_and_others_with_another_seed():
    taken = {}
    for seed in (0, 1):
        keys = np.array([copy_key(id, seed=seed) for id in IDS], np.uint64)
        for cut in (slice(None), slice(None, None, -1)):
            limit = choose_limit(keys[cut], np.full(len(IDS), 10), epochs=0.25)
            chosen = {id for id in IDS if num_copies(id, epochs=0.25, limit=limit, seed=seed)}
            assert len(chosen) == 5000 and taken.setdefault(seed, chosen) == chosen
    assert taken[0] != taken[1]


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=5), st.floats(0.1, 5), st.data())
def test_the_mixture_has_the_shares_asked_for_and_no_input_is_repeated_too_often(sizes, max_epochs, data):
    weights = data.draw(st.lists(st.floats(0.01, 1), min_size=len(sizes), max_size=len(sizes)))
    epochs = epochs_of_inputs(sizes, MixConfig(weights=weights, max_epochs=max_epochs))
    taken = [size * count for size, count in zip(sizes, epochs, strict=True)]
    for share, weight in zip(taken, weights, strict=True):
        assert share / sum(taken) == pytest.approx(weight / sum(weights))
    assert max(epochs) == pytest.approx(max_epochs)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=5), st.floats(1.1, 20))
def test_a_temperature_flattens_the_shares_and_never_repeats_an_input_more_than_allowed(sizes, temperature):
    epochs = epochs_of_inputs(sizes, MixConfig(temperature=temperature, max_epochs=3.0))
    taken = [size * count for size, count in zip(sizes, epochs, strict=True)]
    for a, share_a in zip(sizes, taken, strict=True):
        for b, share_b in zip(sizes, taken, strict=True):
            assert share_a / share_b == pytest.approx((a / b) ** (1 / temperature), rel=1e-6)
    assert max(epochs) == pytest.approx(3.0)


def test_a_limit_of_bytes_shrinks_every_input_alike():
    config = MixConfig(weights=[3, 1], max_epochs=4.0, max_bytes=1000)
    epochs = epochs_of_inputs([600, 700], config)
    assert [size * count for size, count in zip([600, 700], epochs, strict=True)] == pytest.approx([750, 250])


def test_without_weights_every_document_is_taken_once():
    assert epochs_of_inputs([5, 0, 7], MixConfig()) == [1.0, 1.0, 1.0]


def test_an_input_of_weight_zero_is_left_out_and_an_empty_one_stops_nothing_but_the_mixture():
    assert epochs_of_inputs([100, 50], MixConfig(weights=[0, 1])) == [0.0, 1.0]


def test_shards_are_filled_evenly_in_order_of_keys_and_another_seed_gives_another_order():
    config = MixConfig(validation_fraction=0.0)
    places = [place_document(id, copies=1, config=config, num_shards=4)[0] for id in IDS]
    assert all(abs(sum(place.shard == shard for place in places) - 5000) < 250 for shard in range(4))
    by_key = sorted(places, key=lambda place: place.key)
    assert [place.shard for place in by_key] == sorted(place.shard for place in places)
    other = [place_document(id, copies=1, config=MixConfig(validation_fraction=0.0, seed=1), num_shards=4)[0] for id in IDS]
    assert [p.key for p in other] != [p.key for p in places]


def test_copies_of_a_document_stand_apart_and_held_out_documents_are_never_repeated():
    config = MixConfig(validation_fraction=0.5)
    for id in IDS[:200]:
        places = place_document(id, copies=3, config=config, num_shards=8)
        if is_validation(id, fraction=0.5):
            assert [(place.split, place.copy) for place in places] == [("validation", 0)]
        else:
            assert [place.copy for place in places] == [0, 1, 2] and len({place.key for place in places}) == 3


def test_shares_are_said_one_way_and_limits_need_shares():
    for settings, fact in (({"weights": [1.0], "temperature": 2.0}, "give one of them"), ({"max_epochs": 2.0}, "give weights or a temp")):
        config, mistakes = check_config(MixConfig, settings)
        assert config is None and fact in mistakes[0]


def test_weights_that_are_no_shares_are_refused():
    for weights in ([0.0, 0.0], [1.0, -1.0]):
        config, mistakes = check_config(MixConfig, {"weights": weights})
        assert config is None and mistakes[0].startswith("weights: weights are shares")
