"""Every way to spread a model over processes trains the model of one process, and any of them goes on where another stopped.

This file is also what each of 2 or 4 gloo processes runs: `python test_parallel.py FOLDER` with torchrun's environment. They
go through all modes one after another, because starting a process takes longer than twenty steps.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bloomery.core import dist
from bloomery.core.files import read_json, write_json
from bloomery.core.stage import Launch
from bloomery.model.config import LoraConfig, ModelConfig
from bloomery.model.lora import add_adapters
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import linear_next_token
from bloomery.objectives.terms import LossTerms
from bloomery.tokens.loader import Batch
from bloomery.train.checkpoint import Snapshots
from bloomery.train.fit import TrainingConfig, make_state
from bloomery.train.sharding import arrange, distribute, gather_model, local
from bloomery.train.state import TrainState
from bloomery.train.step import num_micro_batches, own_share, sum_losses, train_step

NUM_STEPS, TOKENS = 20, 16
SIZES = {"vocab_size": 50, "dim": 32, "num_heads": 8, "num_kv_heads": 4, "head_dim": 8, "mlp_dim": 48}
ROWS = {"tied": 8, "deep": 8, "free": 7, "lora": 7}
"""Of a step of the models with tied output matrix (shallow, and deep enough for four stages), with a free one, and of one
whose adapters alone are trained; 7 rows are four and three."""
LAYERS = {"tied": 2, "deep": 4, "free": 2, "lora": 2}
CONFIG = TrainingConfig(learning_rate=2e-5, embedding_learning_rate=2e-5, precision="fp32")
MICRO = {"micro_batch_tokens": 3 * TOKENS}
"""At most three rows at a time: four make two micro-batches and three make one, so that one process waits for the other."""

MODES: dict[int, dict[str, Launch]] = {
    2: {
        "ddp": Launch(devices=2, **MICRO),
        "fsdp": Launch(devices=2, strategy="fsdp", **MICRO),
        "tensor": Launch(devices=2, tensor=2, sequence_parallel=False),
        "tensor and sequence": Launch(devices=2, tensor=2, micro_batch_tokens=4 * TOKENS),
        "pipeline": Launch(devices=2, pipeline=2, **MICRO),
        "pipeline, interleaved": Launch(devices=2, pipeline=2, schedule="interleaved", **MICRO),
    },
    4: {
        "ddp": Launch(devices=4, **MICRO),
        "fsdp": Launch(devices=4, strategy="fsdp", **MICRO),
        "hsdp": Launch(devices=4, strategy="fsdp", replicas=2, **MICRO),
        "tensor and sequence": Launch(devices=4, tensor=4),
        "ddp x tensor": Launch(devices=4, tensor=2, micro_batch_tokens=4 * TOKENS),
        "fsdp x tensor": Launch(devices=4, strategy="fsdp", tensor=2, micro_batch_tokens=4 * TOKENS),
        "pipeline": Launch(devices=4, pipeline=4, **MICRO),
        "ddp x pipeline, interleaved": Launch(devices=4, pipeline=2, schedule="interleaved", **MICRO),
    },
}


DEEP = [(2, "pipeline, interleaved"), (4, "pipeline"), (4, "ddp x pipeline, interleaved")]
FREE = [(2, "fsdp"), (2, "tensor and sequence"), (2, "pipeline")]
LORA = [(2, "ddp"), (2, "fsdp")]
CASES = [(world, mode, "deep" if (world, mode) in DEEP else "tied") for world, modes in MODES.items() for mode in modes]
CASES += [(*case, "free") for case in FREE] + [(*case, "lora") for case in LORA]


RELAY = [(1, "", 4), (2, "pipeline", 8), (2, "fsdp", 11), (4, "fsdp x tensor", 16), (1, "", 20)]
"""One run that goes on in another way from each of these steps: processes, mode, step."""


def batch_of_step(step: int, rows: int = 8) -> Batch:
    """Rows of two documents each, and weights of which some are 0, also for whole rows, and none are alike."""
    draw = torch.Generator().manual_seed(step)
    token_BT = torch.randint(0, SIZES["vocab_size"], (rows, TOKENS + 1), generator=draw)
    weight_BT = torch.rand(rows, TOKENS, generator=draw) * (torch.rand(rows, TOKENS, generator=draw) < 0.7)
    weight_BT[step % rows] = 0
    document_BT = 1 + (torch.arange(TOKENS) >= torch.randint(4, TOKENS, (rows, 1), generator=draw)).long()
    position_BT = torch.arange(TOKENS).expand(rows, TOKENS)
    return Batch(token_BT[:, :-1], token_BT[:, 1:], weight_BT, document_BT, position_BT)


def objective(model: Transformer, batch: Batch) -> LossTerms:
    hidden_BTD = model.hidden_states(batch.token_BT, position_BT=batch.position_BT, document_BT=batch.document_BT)
    flat = (hidden_BTD.flatten(0, 1), model.head_weight(), batch.target_BT.flatten(), batch.weight_BT.flatten())
    return linear_next_token(*flat, z_loss=1e-3)


def start(model: str, launch: Launch) -> TrainState:
    cpu = torch.device("cpu")
    config = ModelConfig(**SIZES, max_positions=TOKENS, num_layers=LAYERS[model], tied_embeddings=model in ("tied", "deep"))
    parallel, whole = arrange(launch, cpu), Transformer(config, seed=3)
    if model == "lora":
        add_adapters(whole, LoraConfig(rank=4), seed=3)
    return make_state(distribute(whole, parallel, launch, cpu), CONFIG, parallel)


def take_steps(state: TrainState, model: str, launch: Launch, until: int) -> list[tuple[float, float, int]]:
    """Loss, gradient norm and tokens of every step. Clipped at 0.3: at work in most steps."""
    seen = []
    while state.step < until:
        rows = own_share(np.arange(ROWS[model]), launch)
        batch = Batch(*(tensor[rows] for tensor in batch_of_step(state.step, ROWS[model])._tensors()))
        parts = batch.split(num_micro_batches(len(rows), TOKENS, torch.device("cpu"), launch))
        report = train_step(state, parts, objective, max_gradient_norm=0.3)
        seen.append((report.loss, report.gradient_norm, report.tokens))
    return seen


def run_mode(folder: Path, name: str, model: str, launch: Launch) -> None:
    """Trains, measures and leaves what came out in the folder."""
    state = start(model, launch)
    seen = take_steps(state, model, launch, NUM_STEPS // 2)
    middle = sum_losses(state.model, [batch_of_step(1000), batch_of_step(1001)], objective)  # and training goes on after it
    seen += take_steps(state, model, launch, NUM_STEPS)
    whole = gather_model(state.model)
    if whole is not None:
        save_file({key: value.detach().contiguous() for key, value in whole.named_parameters()}, folder / f"{name}.safetensors")
        write_json(folder / f"{name}.json", {"seen": seen, "validation": float(middle.loss_sum), "weight": float(middle.weight)})


def go_on(folder: Path, world: int, mode: str, until: int) -> None:
    """Takes the steps from the newest snapshot in the folder to `until`, and leaves a snapshot there."""
    launch = MODES[world][mode] if world > 1 else Launch()
    state = start("tied", launch)
    snapshots = Snapshots(folder / "snapshots", settings="s")
    assert snapshots.restore(state) == (until != RELAY[0][2])
    seen = take_steps(state, "tied", launch, until)
    snapshots.save(state)
    dist.barrier()
    if dist.rank() == 0:
        write_json(folder / f"until {until}.json", seen)


def resume_exactly(folder: Path, launch: Launch) -> None:
    """Two more steps, with a snapshot and a new start between them and without; says whether bits differ."""
    whole, cut, resumed = (start("tied", launch) for _ in range(3))
    expected = take_steps(whole, "tied", launch, 2)
    snapshots = Snapshots(folder / f"exact {dist.world_size()}", settings="s")
    seen = take_steps(cut, "tied", launch, 1)
    snapshots.save(cut)
    assert snapshots.restore(resumed)
    seen += take_steps(resumed, "tied", launch, 2)
    weights = [torch.equal(local(a), local(b)) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True)]
    everywhere = dist.gather_objects(seen == expected and all(weights))
    if dist.rank() == 0:
        write_json(folder / f"exact {dist.world_size()}.json", everywhere)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with dist.process_group():
        world = dist.world_size()
        for _, mode, model in (case for case in CASES if case[0] == world):
            run_mode(folder, f"{world} {mode} {model}", model, MODES[world][mode])
        for leg in (leg for leg in RELAY if leg[0] == world):
            go_on(folder, *leg)
        resume_exactly(folder, MODES[world]["fsdp" if world == 2 else "fsdp x tensor"])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    go_on(folder, *RELAY[0])
    for world in MODES:
        ranks = start_ranks(world, folder)
        if world == 2:
            for model in ROWS:
                run_mode(folder, f"1 {model}", model, Launch())
        for process in ranks:
            assert process.wait(timeout=300) == 0
    go_on(folder, *RELAY[-1])
    return folder


def start_ranks(world: int, folder: Path) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen([sys.executable, __file__, str(folder)], env={**os.environ, **group, "RANK": str(rank)}) for rank in range(world)
    ]


@pytest.mark.parametrize(("world", "mode", "model"), CASES)
def test_a_way_to_spread_the_model_changes_nothing_but_rounding(results: Path, world: int, mode: str, model: str) -> None:
    one, many = (read_json(results / f"{name} {model}.json") for name in ("1", f"{world} {mode}"))
    torch.testing.assert_close(torch.tensor(many["seen"]), torch.tensor(one["seen"]), rtol=1e-5, atol=1e-5)
    assert many["validation"] == pytest.approx(one["validation"], rel=1e-5) and many["weight"] == pytest.approx(one["weight"])
    expected, weights = load_file(results / f"1 {model}.safetensors"), load_file(results / f"{world} {mode} {model}.safetensors")
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=5e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_a_run_that_goes_on_with_other_processes_in_other_ways_learns_the_same(results: Path) -> None:
    seen = [row for *_, until in RELAY for row in read_json(results / f"until {until}.json")]
    expected = read_json(results / "1 tied.json")["seen"]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("world", MODES)
def test_on_as_many_processes_a_run_goes_on_bit_for_bit(results: Path, world: int) -> None:
    assert read_json(results / f"exact {world}.json") == [True] * world


if __name__ == "__main__":
    main(Path(sys.argv[1]))
