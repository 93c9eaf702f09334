"""Grids of processes, and what is said of those that do not fit."""

import pytest

from bloomery.core.errors import ConfigError
from bloomery.core.stage import Launch
from bloomery.model.config import ModelConfig
from bloomery.train.layout import Layout, find_misfits, make_layout

MODEL = ModelConfig(vocab_size=50, dim=32, num_layers=4, num_heads=8, num_kv_heads=4, head_dim=8, mlp_dim=48)


def misfits(batch_rows: int = 16, row_tokens: int = 16, lora: bool = False, **launch: object) -> list[str]:
    return find_misfits(Launch(**launch), MODEL, batch_rows=batch_rows, row_tokens=row_tokens, lora=lora)


def test_every_process_has_its_own_place_and_neighbours_share_matrices() -> None:
    layout = make_layout(Launch(devices=4, nodes=4, rendezvous="a:1", strategy="fsdp", replicas=2, tensor=2, pipeline=2), num_processes=16)
    assert layout == Layout(pipeline=2, replicas=2, shards=2, tensor=2) and layout.num_processes == 16
    places = [(layout.pipeline_rank(r), layout.data_rank(r), layout.tensor_rank(r)) for r in range(16)]
    assert places == sorted(set(places)) and places[:3] == [(0, 0, 0), (0, 0, 1), (0, 1, 0)]


def test_ddp_is_a_copy_for_every_process_and_fsdp_one_for_all() -> None:
    assert make_layout(Launch(devices=4), num_processes=4) == Layout(replicas=4)
    assert make_layout(Launch(devices=4, strategy="fsdp"), num_processes=4) == Layout(shards=4)


@pytest.mark.parametrize(
    ("num_layers", "pipeline", "virtual", "expected"), [(7, 2, 1, [4, 3]), (7, 2, 2, [2, 2, 2, 1]), (4, 4, 1, [1] * 4)]
)
def test_layers_are_dealt_evenly_in_runs_that_follow_one_another(num_layers: int, pipeline: int, virtual: int, expected: list[int]) -> None:
    layout = Layout(pipeline=pipeline, virtual_stages=virtual)
    runs = [layout.layers_of(stage, num_layers) for stage in range(layout.num_stages)]
    assert [len(run) for run in runs] == expected
    assert [layer for run in runs for layer in run] == list(range(num_layers))


@pytest.mark.parametrize(
    ("launch", "facts"),
    [
        ({"devices": 6, "tensor": 4}, "pipeline = 1 does not divide 6 processes (devices x nodes); their product can be 1, 2, 3, 6"),
        ({"devices": 8, "data": 3, "tensor": 2}, "is 6 processes; devices x nodes is 8: data must be 4"),
        ({"devices": 2, "replicas": 2}, 'replicas = 2 is for strategy = "fsdp"'),
        ({"devices": 4, "strategy": "fsdp", "replicas": 3}, "replicas = 3 does not divide data = 4; it can be 1, 2, 4"),
        ({"devices": 8, "tensor": 8}, "tensor = 8 does not divide num_heads = 8, num_kv_heads = 4 and mlp_dim = 48; it can be 1, 2, 4"),
        ({"devices": 8, "pipeline": 8}, "pipeline = 8 needs at least 8 layers; the model has 4: pipeline can be 1, 2, 4"),
        ({"devices": 4, "pipeline": 4, "schedule": "interleaved"}, "pipeline = 4 x virtual_stages = 2 needs at least 8 layers"),
        ({"devices": 4, "pipeline": 2, "tensor": 2}, "found tensor = 2 and strategy = 'ddp'"),
        ({"devices": 32}, "a step has 16 rows; data = 32 need at least a row each: raise the batch, or let data be at most 16"),
        ({"devices": 4, "pipeline": 4, "batch_rows": 3}, "data = 1 need at least 4 rows each"),
        ({"devices": 4, "pipeline": 4, "schedule": "interleaved", "batch_rows": 6}, "rows of each part must be a multiple of pipeline = 4"),
        ({"devices": 4, "tensor": 4, "row_tokens": 10}, "cannot part rows of 10 tokens; it can be 1, 2, or sequence_parallel = false"),
        ({"devices": 2, "nodes": 2}, 'nodes = 2 need rendezvous = "HOST:PORT"'),
        ({"devices": 2, "tensor": 2, "lora": True}, "adapters (lora) train with data only; found tensor = 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_the_sizes_that_do(launch: dict[str, object], facts: str) -> None:
    assert facts in " ".join(misfits(**launch))


def test_what_fits_is_not_complained_about() -> None:
    for launch in (
        {},
        {"devices": 4},
        {"devices": 4, "strategy": "fsdp", "tensor": 2},
        {"devices": 4, "nodes": 2, "rendezvous": "head:29500", "strategy": "fsdp", "replicas": 2},
        {"devices": 4, "pipeline": 2, "schedule": "interleaved"},
    ):
        assert misfits(**launch) == []


def test_a_world_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not divide 1 processes"):
        make_layout(Launch(devices=2, tensor=2), num_processes=1)
