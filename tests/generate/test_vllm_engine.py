"""The engine around vLLM as far as it goes without vLLM: what it is given by us, with a stand-in for what it gives back."""

import importlib
import sys
import types
from types import SimpleNamespace

import pytest
import torch

from bloomery.generate.sampling import SamplingParams
from bloomery.model.config import LoraConfig, ModelConfig
from bloomery.model.lora import add_adapters, merged_weights
from bloomery.model.transformer import Transformer


@pytest.fixture
def vllm_engine(monkeypatch):
    """The module, with a vllm that notes what it is told. The real one needs a GPU and was not run yet."""
    told = SimpleNamespace(weights=[], resets=0, params=[])

    class LLM:
        def __init__(self, **options):
            told.options = options
            model = SimpleNamespace(load_weights=told.weights.append)
            runner = SimpleNamespace(model_runner=SimpleNamespace(model=model))
            executor = SimpleNamespace(driver_worker=runner)
            self.llm_engine = SimpleNamespace(model_executor=executor, model_config=SimpleNamespace(max_model_len=16))

        def reset_prefix_cache(self):
            told.resets += 1

        def generate(self, prompts, params, use_tqdm):
            told.params += params
            output = SimpleNamespace(token_ids=[7, 1], logprobs=[{7: SimpleNamespace(logprob=-0.5)}, {1: SimpleNamespace(logprob=-0.1)}])
            output.finish_reason, output.stop_reason = "stop", None
            return [SimpleNamespace(outputs=[output]) for _ in prompts]

    fake = types.ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, lambda **given: SimpleNamespace(**given)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.delitem(sys.modules, "bloomery.generate.vllm_engine", raising=False)
    yield importlib.import_module("bloomery.generate.vllm_engine"), told
    sys.modules.pop("bloomery.generate.vllm_engine", None)


def test_a_policy_in_training_gives_its_weights_adapters_added_and_old_prefixes_are_forgotten(vllm_engine, tmp_path) -> None:
    module, told = vllm_engine
    config = ModelConfig(vocab_size=20, dim=16, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=16, mlp_dim=16, max_positions=16)
    model = Transformer(config, seed=1)
    add_adapters(model, LoraConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    engine = module.VLLMEngine(tmp_path)
    engine.update_weights(model)
    ((*given,),) = told.weights
    expected = merged_weights(model)
    assert {name for name, _ in given} == set(expected) and told.resets == 1
    assert all(torch.equal(weight, expected[name]) for name, weight in given)
    with torch.no_grad():
        assert not torch.equal(dict(given)["model.layers.0.mlp.up_proj.weight"], model.model.layers[0].mlp.up_proj.weight)


def test_samples_keep_what_ended_them_and_log_probabilities_are_asked_for_as_processed(vllm_engine, tmp_path) -> None:
    module, told = vllm_engine
    engine = module.VLLMEngine(tmp_path, gpu_memory_fraction=0.3)
    assert told.options["logprobs_mode"] == "processed_logprobs" and told.options["gpu_memory_utilization"] == 0.3
    (sample,) = engine.generate([[1, 2, 3]], SamplingParams(max_tokens=50, temperature=0.7), seeds=[4])
    assert (sample.tokens, sample.logps, sample.finish) == ([7, 1], [-0.5, -0.1], "end")
    (asked,) = told.params
    assert (asked.max_tokens, asked.temperature, asked.seed, asked.top_k) == (13, 0.7, 4, -1)
