"""Everything from any one thing, and a plan that the trainer would take."""

import doctest
import itertools
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bloomery.cli.budget import launch_line
from bloomery.core.stage import Launch
from bloomery.model.config import ModelConfig, ModelShape, make_model_config
from bloomery.model.config import count_params as count_model_params
from bloomery.scaling import budget, dial
from bloomery.scaling.budget import Prices, Question, choose, make_plan, measured_mfu
from bloomery.scaling.dial import recipe_config, turn_dial
from bloomery.scaling.hardware import find_device
from bloomery.scaling.laws import BESIROGLU, Split
from bloomery.scaling.parallel import MEMORY_FRACTION, Work, choose_way, fewest_devices
from bloomery.scaling.shape import PUBLISHED, Shape, shape_of_size
from bloomery.stages.pretrain import PretrainConfig
from bloomery.train.layout import find_misfits

H100 = Prices(find_device("h100"), 0.5, 3.0)


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(budget).failed == 0 and doctest.testmod(dial).failed == 0


def test_any_one_of_the_sizes_gives_all_the_others_and_comes_back() -> None:
    split = choose(Question(flops=1e22), BESIROGLU, H100).split
    plan = make_plan(split, H100, gpus=64)
    assert plan.gpu_hours == pytest.approx(1e22 / (989e12 * 0.5) / 3600) and plan.days == pytest.approx(plan.gpu_hours / 64 / 24)
    for question in (
        Question(params=split.params),
        Question(tokens=split.tokens),
        Question(gpu_hours=plan.gpu_hours),
        Question(days=plan.days, gpus=64),
        Question(dollars=plan.gpu_hours * 3.0),
        Question(params=split.params, tokens=split.tokens),
        Question(params=split.params, flops=1e22),
        Question(tokens=split.tokens, dollars=plan.gpu_hours * 3.0),
    ):
        found = choose(question, BESIROGLU, H100).split
        assert found.params == pytest.approx(split.params) and found.tokens == pytest.approx(split.tokens), question


def test_a_ratio_takes_the_place_of_the_law() -> None:
    for question in (Question(params=7e9), Question(tokens=140e9), Question(flops=6 * 7e9 * 140e9)):
        found = choose(question._replace(tokens_per_param=20), BESIROGLU, H100).split
        assert found.params == pytest.approx(7e9) and found.tokens == pytest.approx(140e9)


def test_an_inference_load_keeps_the_loss_of_the_budget_and_says_what_it_would_have_been() -> None:
    plain = choose(Question(flops=1e23), BESIROGLU, H100)
    found = choose(Question(flops=1e23, inference_tokens=1e13), BESIROGLU, H100)
    assert found.loss == pytest.approx(plain.loss) and found.split.params < plain.split.params and found.split.flops > 1e23
    assert found.before == plain.split


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question(), "nothing to begin with"),
        (Question(flops=1e20, dollars=100), "flops and dollars are the same thing"),
        (Question(days=3), "only together with a number of GPUs"),
        (Question(params=1e9, tokens=1e10, gpu_hours=5), "leave one of params, tokens and gpu_hours out"),
        (Question(params=1e9, tokens=1e10, inference_tokens=1e12), "nothing left to choose"),
    ],
)
def test_too_little_or_too_much_is_refused_with_what_to_do(question: Question, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(question, BESIROGLU, H100)


PLANS = [(4e6, 1, "cpu"), (1.24e8, 8, "h100"), (1e9, 1, "rtx4090"), (8e9, 8, "h100"), (8e9, 64, "a100"), (7.2e10, 1024, "h100"),
         (4e11, 4096, "h200"), (7e9, 32, "mi300x")]  # fmt: skip


@pytest.mark.parametrize(("params", "gpus", "name"), PLANS)
def test_a_planned_launch_fits_the_memory_and_is_one_that_the_trainer_takes(params: float, gpus: int, name: str) -> None:
    device = find_device(name)
    plan = make_plan(Split(params, 20 * params), Prices(device, 0.4, 1.0), gpus=gpus)
    assert plan.way is not None and plan.way.memory.total <= MEMORY_FRACTION * device.memory_bytes
    pasted = tomllib.loads(launch_line(plan.way.launch_settings()))["launch"]
    launch = Launch(**pasted)
    assert launch.num_processes == gpus
    rows = plan.work.batch_rows
    assert find_misfits(launch, as_model(plan.work.shape), batch_rows=rows, row_tokens=plan.work.sequence_tokens) == []
    assert launch.micro_batch_tokens % plan.work.sequence_tokens == 0


def as_model(shape: Shape) -> ModelConfig:
    return ModelConfig(
        vocab_size=shape.vocab_size, dim=shape.dim, num_layers=shape.num_layers, num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim, mlp_dim=shape.mlp_dim, tied_embeddings=shape.tied_embeddings,
    )  # fmt: skip


def test_a_model_that_fits_on_each_device_is_copied_and_a_larger_one_is_shared() -> None:
    small, large = (make_plan(Split(n, 20 * n), H100, gpus=8).way for n in (3e8, 8e9))
    assert small is not None and large is not None
    assert (small.strategy, small.tensor, small.pipeline, small.checkpointing) == ("ddp", 1, 1, "none")
    assert large.strategy == "fsdp" or large.tensor > 1


def test_the_fewest_devices_are_fewer_for_a_smaller_model_and_a_half_would_not_do() -> None:
    device = find_device("h100")
    for params in (1e9, 8e9, 7e10):
        work = Work(shape_of_size(params), 2**21, 4096, "adamw")
        way = fewest_devices(work, device)
        assert way is not None
        count = way.devices * way.nodes
        assert count == 1 or choose_way(work, device, num_devices=count // 2) is None


def test_more_devices_than_rows_need_tensor_parallelism_or_do_not_fit() -> None:
    work = Work(PUBLISHED["llama-3.1-8b"], 32 * 4096, 4096, "adamw")
    way = choose_way(work, find_device("h100"), num_devices=64)
    assert way is not None and way.tensor >= 2 and way.data <= 32
    assert choose_way(work, find_device("h100"), num_devices=1024) is None


def test_devices_that_fill_no_machines_are_refused_with_the_nearest_numbers() -> None:
    with pytest.raises(ValueError, match="take 96 or 104"):
        make_plan(Split(1e9, 2e10), H100, gpus=100)


def test_muon_gives_way_to_adamw_where_only_that_fits() -> None:
    plan = make_plan(Split(7.2e10, 1.4e12), H100, gpus=1024)
    assert plan.way is not None and plan.optimizer == "adamw"
    assert make_plan(Split(7.2e10, 1.4e12), H100, gpus=1024, optimizer="muon").way is None


def test_a_measured_utilisation_is_the_median_without_the_first_steps(tmp_path: Path) -> None:
    rows = [{"step": i, "train/mfu": 0.01 if i < 10 else 0.4 + 0.01 * (i % 3)} for i in range(40)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert measured_mfu(tmp_path / "metrics.jsonl") == pytest.approx(0.41)
    (tmp_path / "empty.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="no row with train/mfu"):
        measured_mfu(tmp_path / "empty.jsonl")


@pytest.mark.parametrize("depth", [1, 2, 4, 7, 12, 13, 24, 32, 64])
def test_the_config_of_the_dial_is_one_of_pretrain_and_makes_the_dials_model(depth: int) -> None:
    found = turn_dial(depth)
    config = PretrainConfig(**recipe_config(found))
    model = make_model_config(config.model, vocab_size=found.shape.vocab_size, max_positions=config.sequence_tokens)
    shape = found.shape
    assert count_model_params(model) == found.params
    assert (model.dim, model.num_layers, model.num_heads, model.num_kv_heads, model.mlp_dim) == (
        shape.dim,
        depth,
        *shape[3:5],
        shape.mlp_dim,
    )
    assert config.batch_tokens % config.sequence_tokens == 0 and config.tokens == found.tokens


def test_the_dial_of_the_quickstart_is_its_model_and_its_rates() -> None:
    found, usual = turn_dial(4), PretrainConfig(model=ModelShape(depth=4))
    assert found.params == 4_197_120 and found.sequence_tokens == usual.sequence_tokens
    assert (found.learning_rate, found.embedding_learning_rate) == (usual.learning_rate, usual.embedding_learning_rate)
    assert found.weight_decay == pytest.approx(usual.weight_decay, rel=0.2)


def test_a_deeper_model_reads_more_on_larger_batches_with_smaller_rates() -> None:
    dials: list[Any] = [turn_dial(depth) for depth in (4, 8, 12, 24, 48)]
    for smaller, larger in itertools.pairwise(dials):
        assert larger.params > smaller.params and larger.tokens > smaller.tokens and larger.batch_tokens >= smaller.batch_tokens
        assert larger.learning_rate < smaller.learning_rate and larger.embedding_learning_rate < smaller.embedding_learning_rate
        assert 0.05 < larger.weight_decay < 0.15


def test_the_rates_are_those_of_the_step_law_at_its_own_size() -> None:
    """arXiv:2503.04715: a model of 1 B parameters on 100 B tokens, whose best settings a grid found near these."""
    assert dial.learning_rate(1e9, 100e9) == pytest.approx(1.79 * (1e9) ** -0.713 * (1e11) ** 0.307)
    assert dial.learning_rate(1e9, 100e9) == pytest.approx(1.6e-3, rel=0.1) and dial.usual_batch_tokens(100e9) == 2**20


def test_a_depth_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="depth = 0"):
        turn_dial(0)
