"""How a model computes must not change what it computes."""

from collections.abc import Iterator

import pytest
import torch

from bloomery.core.errors import ConfigError
from bloomery.core.stage import Launch
from bloomery.model.config import ModelConfig, ModelShape, count_params, make_model_config
from bloomery.model.device import Precision
from bloomery.model.transformer import Transformer
from bloomery.pipeline.locate import find_recipe
from bloomery.pipeline.recipe import load_recipe
from bloomery.stages.pretrain import next_token_objective
from bloomery.tokens.loader import Batch
from bloomery.train import compute
from bloomery.train.compute import TRAINING_BYTES_PER_PARAM, activation_bytes, convert_to_float8, fitting_tokens, prepare_model

CPU = torch.device("cpu")
CONFIG = make_model_config(ModelShape(depth=2, dim=32, head_dim=16, mlp_dim=48), vocab_size=64, max_positions=160)


@pytest.fixture(autouse=True)
def settings_as_before() -> Iterator[None]:
    """What a compiled model on a CPU sets for its process ends with the test."""
    yield
    torch.use_deterministic_algorithms(False)
    torch._functorch.config.activation_memory_budget = 1.0
    torch._functorch.config.ban_recompute_materialized_backward = True
    torch._dynamo.reset()  # it would go on with layers that were compiled for another budget


def make_batch() -> Batch:
    """Two rows of 160: three documents, and one with padding."""
    ids = torch.randint(0, 64, (2, 161), generator=torch.Generator().manual_seed(0))
    document = torch.tensor([[1] * 60 + [2] * 60 + [3] * 40, [1] * 150 + [0] * 10])
    return Batch(ids[:, :-1], ids[:, 1:], (document > 0).float(), document, torch.arange(160).repeat(2, 1))


def gradient(config: ModelConfig, launch: Launch, *, precision: Precision = "fp32") -> tuple[float, torch.Tensor]:
    model = Transformer(config, seed=3)
    prepare_model(model, precision=precision, launch=launch, device=CPU)
    loss = next_token_objective(model, make_batch().to(CPU), z_loss=1e-3).loss_sum
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


def test_recomputed_layers_have_the_same_gradients_to_the_bit() -> None:
    loss, expected = gradient(CONFIG, Launch())
    assert gradient(CONFIG, Launch(activation_checkpointing="full"))[0] == loss
    assert torch.equal(gradient(CONFIG, Launch(activation_checkpointing="full"))[1], expected)


def test_compiled_layers_and_loss_have_the_same_gradients_each_time() -> None:
    torch.set_num_threads(2)
    (loss, expected), (compiled_loss, found) = gradient(CONFIG, Launch()), gradient(CONFIG, Launch(compile="on"))
    assert all(torch.equal(gradient(CONFIG, Launch(compile="on"))[1], found) for _ in range(3))
    assert compiled_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_what_the_compiler_computes_again_has_the_same_gradients() -> None:
    expected = gradient(CONFIG, Launch())[1]
    found = gradient(CONFIG, Launch(compile="on", activation_checkpointing="selective"))[1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("launch", "tokens"), [(Launch(), 0), (Launch(compile="on"), 2048), (Launch(compile="on", micro_batch_tokens=4096), 4096)]
)
def test_on_a_cpu_compiled_layers_take_a_part_of_the_batch_that_fits_little_memory(launch: Launch, tokens: int) -> None:
    model = Transformer(CONFIG, seed=0)
    assert prepare_model(model, precision="fp32", launch=launch, device=CPU).micro_batch_tokens == tokens  # 0: train/step.py's own


def test_selective_recomputation_without_a_compiler_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="add compile = 'on'"):
        gradient(CONFIG, Launch(activation_checkpointing="selective"))


def test_float8_rounds_but_points_the_same_way_and_leaves_embeddings_alone() -> None:
    pytest.importorskip("torchao", reason="float8 needs the optional package torchao")
    batch, gradients = make_batch(), []
    for float8 in (False, True):
        model = Transformer(CONFIG, seed=3)
        model.compute_dtype = torch.bfloat16
        if float8:
            assert convert_to_float8(model, emulate=True) == 14
        next_token_objective(model, batch.to(CPU), z_loss=0.0).loss_sum.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert 0.9 < torch.nn.functional.cosine_similarity(*gradients, dim=0) < 0.9999


def test_float8_says_when_no_matrix_is_large_enough() -> None:
    pytest.importorskip("torchao", reason="float8 needs the optional package torchao")
    with pytest.raises(ConfigError, match="both sides of 1024 or more and multiples of 16"):
        convert_to_float8(Transformer(CONFIG))


def test_float8_without_torchao_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(ConfigError, match=r"bloomery\[gpu\]"):
        convert_to_float8(Transformer(CONFIG))


def test_what_is_thought_to_fit_agrees_with_what_a_gpu_needed() -> None:
    shape = ModelShape(dim=2048, num_layers=18, head_dim=128, num_heads=16, num_kv_heads=16, mlp_dim=5632)
    config = make_model_config(shape, vocab_size=50304, max_positions=2048)
    kept = activation_bytes(config, element_bytes=2, recomputed=False) * 32768 + TRAINING_BYTES_PER_PARAM * count_params(config)
    assert 67e9 < kept < 74e9  # an H200 needed 67 GB for 32,768 tokens
    assert activation_bytes(config, element_bytes=2, recomputed=True) < 0.3 * activation_bytes(config, element_bytes=2, recomputed=False)
    sizes = {"element_bytes": 2, "recomputed": False}
    assert [fitting_tokens(config, memory_bytes=gigabytes * 1e9, **sizes) for gigabytes in (10, 80, 140)] == [0, 16384, 32768]


@pytest.mark.parametrize("name", ["gpt2", "speedrun"])
def test_the_recipes_for_gpus_fit_into_80_gigabytes(name: str) -> None:
    config = load_recipe(find_recipe(name)).nodes["base"].config
    model = make_model_config(config.model, vocab_size=50304, max_positions=config.sequence_tokens)
    assert fitting_tokens(model, memory_bytes=80e9, element_bytes=2, recomputed=False) >= 8 * config.sequence_tokens
