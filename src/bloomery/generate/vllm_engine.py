"""vLLM behind the RolloutEngine Protocol: the same checkpoint folder, on GPUs, where vLLM is installed.

Written against vLLM 0.10.2 and newer (`LLM.generate` on token prompts); imported by nobody at import time of bloomery, and
not run yet: it needs a GPU and a package that this project's tests do not install.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any  # Any: vLLM's types, where it is not installed

from bloomery.core.errors import ConfigError, DataError
from bloomery.generate.engine import Sample
from bloomery.generate.finish import Finish
from bloomery.generate.sampling import SamplingParams
from bloomery.model.lora import merged_weights
from bloomery.model.transformer import Transformer

try:
    import vllm
except ImportError as error:
    raise ConfigError("this engine needs vLLM, which needs a GPU: pip install vllm") from error


class VLLMEngine:
    """A RolloutEngine. Weights are those of the folder when it was made, until `update_weights`.

    Log-probabilities are after temperature, penalty, top-k, top-p and min-p (vLLM's `processed_logprobs`): with the last four off
    they are those of `Engine`; with any of them on they are not, so rollouts to train on leave them off.
    """

    def __init__(self, folder: Path, *, tensor_parallel: int = 1, gpu_memory_fraction: float = 0.9, max_top_logps: int = 20) -> None:
        self._model: Any = vllm.LLM(
            model=str(folder),
            tokenizer=str(folder),
            tensor_parallel_size=tensor_parallel,
            gpu_memory_utilization=gpu_memory_fraction,
            max_logprobs=max_top_logps,
            logprobs_mode="processed_logprobs",
            # Else the folder's generation_config.json would change what a request says.
            generation_config="vllm",
            trust_remote_code=False,
        )

    @property
    def context_tokens(self) -> int:
        """The most tokens that a prompt and its answer can have together."""
        return int(self._model.llm_engine.model_config.max_model_len)

    def update_weights(self, model: Transformer) -> None:
        """Speaks with the weights that a model of the same shape has now, adapters added to theirs, and forgets what it has read before.

        For an engine in this process, as TRL's colocated mode does it.
        """
        worker = self._model.llm_engine.model_executor.driver_worker
        worker.model_runner.model.load_weights(list(merged_weights(model).items()))
        self._model.reset_prefix_cache()

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seeds: Sequence[int]) -> list[Sample]:
        """An answer for each prompt, in their order; seeds[i] decides what is drawn for prompts[i], though not as `Engine` draws.

        Raises DataError for a prompt that is empty or fills the model's context.
        """
        context = self.context_tokens
        for prompt in prompts:
            if not 0 < len(prompt) < context:
                raise DataError(f"a prompt of {len(prompt)} tokens: expected 1 to {context - 1}, with room for an answer")
        settings = [translate(params, seed=seed, room=context - len(prompt)) for prompt, seed in zip(prompts, seeds, strict=True)]
        outputs = self._model.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], settings, use_tqdm=False)
        return [read_output(output.outputs[0], params) for output in outputs]


def translate(params: SamplingParams, *, seed: int, room: int) -> Any:
    """Our params as vLLM's."""
    return vllm.SamplingParams(
        max_tokens=min(params.max_tokens, room),
        temperature=params.temperature,
        top_k=params.top_k or -1,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        stop=list(params.stop) or None,
        stop_token_ids=list(params.stop_tokens) or None,
        logprobs=params.top_logps,
        seed=seed,
    )


def read_output(output: Any, params: SamplingParams) -> Sample:
    """A Sample of vLLM's CompletionOutput: `logprobs` has for each place the drawn token and the likeliest ones, by id."""
    tokens = [int(token) for token in output.token_ids]
    logps = [float(place[token].logprob) for token, place in zip(tokens, output.logprobs, strict=True)]
    tops = []
    if params.top_logps:
        ranked = [sorted(place.items(), key=lambda item: (-item[1].logprob, item[0])) for place in output.logprobs]
        tops = [[(int(token), float(entry.logprob)) for token, entry in place[: params.top_logps]] for place in ranked]
    finish: Finish = "length" if output.finish_reason == "length" else "end" if output.stop_reason is None else "stop"
    return Sample(tokens, logps, finish, tops)
