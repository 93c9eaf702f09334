"""One model in bloomery and in llama.cpp: the greedy text of 20 prompts in every format of GGUF.

    python bench/llama_parity.py MODEL_FOLDER --prompts prompts.jsonl

Ours decodes with the weights rounded as the file is, in float32. llama.cpp rounds what a matrix is multiplied with as well,
and by default keeps its KV cache in fp16. Prints on how many prompts the texts are equal. Needs `bloomery[parity]`.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import llama_cpp
import torch

from bloomery.core.conversation import read_conversations
from bloomery.core.stage import Runtime
from bloomery.evaluate.tasks.skills import skill_prompt
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.gguf import read_gguf
from bloomery.model.huggingface import load_model
from bloomery.stages.export import ExportConfig, export
from bloomery.tokens.tokenizer import load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--num-prompts", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=48)
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.model)
    rows = itertools.islice(read_conversations([options.prompts]), options.num_prompts)
    asked = [skill_prompt(row, tokenizer, "chat") for row in rows]
    params = SamplingParams(max_tokens=options.max_tokens, temperature=0.0)
    for dtype in ("fp32", "fp16", "bf16", "q8_0"):
        with tempfile.TemporaryDirectory() as folder:
            config = ExportConfig(format="gguf", dtype=dtype)
            facts = export(config, model=options.model, out=Path(folder), runtime=Runtime(quiet=True))
            path = Path(folder) / facts["file"]
            model = load_model(options.model)
            weights = read_gguf(model, path)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(weights[name])
            ours = Engine(model, tokenizer).generate(asked, params, seeds=[0] * len(asked))
            for cache, settings in (("fp32", {"type_k": 0, "type_v": 0}), ("fp16", {})):
                peer = llama_cpp.Llama(str(path), n_ctx=model.config.max_positions, verbose=False, **settings)
                same = 0
                for prompt, sample in zip(asked, ours, strict=True):
                    theirs = peer.create_completion(list(prompt), max_tokens=options.max_tokens, temperature=0.0)["choices"][0]["text"]
                    same += theirs == tokenizer.decode(sample.tokens)
                peer.close()
                print(f"{dtype:5} cache {cache}  {facts['bytes']:12,} bytes  same text on {same} of {len(asked)}", flush=True)


if __name__ == "__main__":
    main()
