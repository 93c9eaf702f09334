"""export: what was written is what was trained, and other programs load it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bloomery.core.artifact import seal_folder
from bloomery.core.config import check_config
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.stage import Runtime
from bloomery.model.config import LoraConfig
from bloomery.model.heads import document_rewards, replace_head, token_values
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.lora import add_adapters
from bloomery.pipeline.recipe import load_recipe
from bloomery.pipeline.single import run_single_stage
from bloomery.stages.export import STAGE, ExportConfig, export


def test_transformers_loads_the_export_with_its_tokenizer_and_gives_our_logits(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    metrics = export(ExportConfig(), model=tiny_checkpoint, out=tmp_path / "out", runtime=Runtime(quiet=True))
    assert metrics["params"] == sum(p.numel() for p in load_model(tiny_checkpoint).parameters())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "the cat"}], add_generation_prompt=True, return_dict=False)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs.generation_config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    with torch.no_grad():
        ours = load_model(tiny_checkpoint)(torch.tensor([ids]))
        torch.testing.assert_close(theirs(torch.tensor([ids])).logits, ours, atol=1e-5, rtol=0)


def test_bfloat16_halves_the_file_and_only_rounds(tmp_path: Path, tiny_checkpoint: Path) -> None:
    export(ExportConfig(dtype="bf16"), model=tiny_checkpoint, out=tmp_path / "half", runtime=Runtime(quiet=True))
    whole, half = load_model(tiny_checkpoint), load_model(tmp_path / "half")
    for a, b in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(a.bfloat16().float(), b)


def test_a_checkpoint_of_other_hands_goes_out_as_it_came(tmp_path: Path, tiny_tokenizer: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 280, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    LlamaForCausalLM(LlamaConfig(**sizes)).to(torch.bfloat16).save_pretrained(tmp_path / "in", max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "in" / name).write_bytes((tiny_tokenizer / name).read_bytes())
    metrics = export(ExportConfig(), model=tmp_path / "in", out=tmp_path / "out", runtime=Runtime(quiet=True))
    files = {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    assert len(files) > 6 and files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != "README.md"}
    assert metrics["bytes"] == sum(len(content) for name, content in files.items() if name.endswith(".safetensors"))
    export(ExportConfig(dtype="bf16"), model=tmp_path / "in", out=tmp_path / "one", runtime=Runtime(quiet=True))
    assert (tmp_path / "one" / "config.json").read_bytes() == files["config.json"]
    assert {path.name for path in (tmp_path / "one").glob("*.safetensors")} == {"model.safetensors"}


def test_a_weight_too_large_for_fp16_is_named_and_fp16_else_rounds(tmp_path: Path, tiny_checkpoint: Path) -> None:
    export(ExportConfig(dtype="fp16"), model=tiny_checkpoint, out=tmp_path / "half", runtime=Runtime(quiet=True))
    for a, b in zip(load_model(tiny_checkpoint).parameters(), load_model(tmp_path / "half").parameters(), strict=True):
        assert torch.equal(a.half().float(), b)
    model = load_model(tiny_checkpoint)
    with torch.no_grad():
        model.model.norm.weight[3] = 70_000.0
    save_model(model, tmp_path / "large", tokenizer=tiny_checkpoint)
    with pytest.raises(DataError, match=r"model\.norm\.weight holds a number of size 70000\.0, which float16 has no room for"):
        export(ExportConfig(dtype="fp16"), model=tmp_path / "large", out=tmp_path / "out", runtime=Runtime(quiet=True))


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path, tiny_checkpoint: Path) -> None:
    for name in ("a", "b"):
        export(ExportConfig(), model=tiny_checkpoint, out=tmp_path / name, runtime=Runtime(quiet=True))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_unknown_format_is_refused_with_the_nearest_one() -> None:
    _, mistakes = check_config(ExportConfig, {"format": "hff"})
    assert len(mistakes) == 1 and 'cannot write the format "hff"; did you mean "hf"?' in mistakes[0]


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_checkpoint / name).read_bytes())
    with pytest.raises(DataError, match=r"has no tokenizer\.json.*AutoTokenizer\.from_pretrained.*save_pretrained"):
        export(ExportConfig(), model=tmp_path, out=tmp_path / "out", runtime=Runtime(quiet=True))


def test_a_reward_model_goes_out_as_sequence_classification_that_scores_equally(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    reward = replace_head(load_model(tiny_checkpoint), seed=1)
    save_model(reward, tmp_path / "reward", tokenizer=tiny_checkpoint)
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    del config["pad_token_id"]  # as of a checkpoint of others, whose language model needed none
    (tmp_path / "reward" / "config.json").write_text(json.dumps(config))
    export(ExportConfig(), model=tmp_path / "reward", out=tmp_path / "out", runtime=Runtime(quiet=True))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(["the cat sat", "a dog ran to the red house"], padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")(**batch).logits[:, 0]
        ours = document_rewards(token_values(reward, batch["input_ids"]), batch["attention_mask"])
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    assert "A reward model" in (tmp_path / "out" / "README.md").read_text()
    for settings, message in (({"format": "gguf"}, r"a scalar head.*Export the model as hf"), ({"lora": "beside"}, "a language model")):
        with pytest.raises((ConfigError, DataError), match=message):
            export(ExportConfig(**settings), model=tmp_path / "reward", out=tmp_path / "refused", runtime=Runtime(quiet=True))


def test_a_recipe_exports_a_reward_model_as_one(tmp_path: Path) -> None:
    text = """
        name = "rewards"
        [stages.reward]
        stage = "reward_model"
        inputs = { init = "file:base", pairs = "file:pairs.jsonl" }
        [stages.rounded]
        stage = "export"
        inputs = { model = "reward" }
        [stages.again]
        stage = "export"
        inputs = { model = "rounded" }
        [stages.policy]
        stage = "ppo"
        inputs = { init = "INIT", prompts = "file:prompts.jsonl", reward_models = "again" }
    """
    path = tmp_path / "rewards.toml"
    path.write_text(text.replace("INIT", "file:base"))
    assert set(load_recipe(path).nodes) == {"reward", "rounded", "again", "policy"}
    path.write_text(text.replace("INIT", "again").replace('"reward" }', '"file:base" }'))
    with pytest.raises(
        ConfigError, match=r"1 mistake\n.*policy.inputs.reward_models: needs reward_model, but again \(export\) makes checkpoint"
    ):
        load_recipe(path)
    path.write_text(text.replace("INIT", "again").replace('"reward" }', '"again" }'))
    with pytest.raises(ConfigError, match="a circle of inputs: rounded <- again <- rounded"):
        load_recipe(path)
    path.write_text(text.replace("INIT", "again"))
    with pytest.raises(ConfigError, match=r"policy.inputs.init: needs checkpoint, but again \(export\) makes reward_model"):
        load_recipe(path)


def test_a_reward_model_of_a_store_is_one_after_its_export_too(tmp_path: Path, tiny_checkpoint: Path) -> None:
    save_model(replace_head(load_model(tiny_checkpoint), seed=1), tmp_path / "work", tokenizer=tiny_checkpoint)
    record = {"stage": "reward_model", "version": 1, "fingerprint": "e" * 64, "kind": "reward_model", "config": {}, "inputs": {}}
    made = seal_folder(tmp_path / "work", tmp_path / "reward", {**record, "metrics": {"tokens": 7, "held_out_accuracy": 0.75}}).path
    exported = run_single_stage(STAGE, inputs={"model": [str(made)]}, settings={}, out=tmp_path / "out")
    assert exported.kind == "reward_model"
    assert "| reward_model | 7 | - | " in (exported.path / "README.md").read_text()
    plain = run_single_stage(STAGE, inputs={"model": [str(tiny_checkpoint)]}, settings={}, out=tmp_path / "plain")
    assert plain.kind == "checkpoint"


def test_a_lora_goes_out_beside_the_weights_that_it_was_trained_on(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def seal(folder: Path, stage: str, inputs: dict[str, list[str]]) -> Path:
        fingerprint = (stage[0] * 64).replace("s", "5").replace("p", "9")
        record = {
            "stage": stage,
            "version": 1,
            "fingerprint": fingerprint,
            "kind": "checkpoint",
            "config": {},
            "inputs": inputs,
            "metrics": {},
        }
        return seal_folder(folder, tmp_path / "artifacts" / f"{stage}-{fingerprint[:16]}", record).path

    base = load_model(tiny_checkpoint)
    save_model(base, tmp_path / "base", tokenizer=tiny_checkpoint)
    pretrained = seal(tmp_path / "base", "pretrain", {})
    add_adapters(base, LoraConfig(rank=2), seed=1)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(3))
    save_model(base, tmp_path / "tuned", tokenizer=tiny_checkpoint, like=pretrained)
    tuned = seal(tmp_path / "tuned", "sft", {"init": ["9" * 64]})
    export(ExportConfig(lora="beside"), model=tuned, out=tmp_path / "out", runtime=Runtime(quiet=True))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (pretrained / "model.safetensors").read_bytes()
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), tmp_path / "out" / "adapter")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, load_model(tuned)(ids), atol=1e-4, rtol=1e-4)
    export(ExportConfig(), model=tuned, out=tmp_path / "merged", runtime=Runtime(quiet=True))
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == (tuned / "model.safetensors").read_bytes()
    for path in pretrained.iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"trained on is not in the store any more.*--input model=BASE"):
        export(ExportConfig(lora="beside"), model=tuned, out=tmp_path / "gone", runtime=Runtime(quiet=True))
    with pytest.raises(DataError, match=r"has no adapter/"):
        export(ExportConfig(lora="beside"), model=tiny_checkpoint, out=tmp_path / "none", runtime=Runtime(quiet=True))


def test_the_licence_of_an_import_goes_with_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "in")
    texts = {"LICENSE": "terms", "NOTICE.txt": "names", "USE_POLICY.md": "manners", "Notice": "more", "licences.py": "no licence"}
    for name, text in {**texts, "README.md": "---\nlicense: other\nlicense_name: 'some-terms' # ours\n---\nlicense: mit\n"}.items():
        (tmp_path / "in" / name).write_text(text)
    save_model(load_model(tmp_path / "in"), tmp_path / "trained", tokenizer=tmp_path / "in", like=tmp_path / "in")
    run_single_stage(STAGE, inputs={"model": [str(tmp_path / "in")]}, settings={}, out=tmp_path / "start")
    for model, settings in (("in", {}), ("in", {"dtype": "bf16"}), ("in", {"format": "gguf"}), ("trained", {}), ("start", {})):
        out = tmp_path / f"{model}-{len(list(tmp_path.iterdir()))}"
        export(ExportConfig(**settings), model=tmp_path / model, out=out, runtime=Runtime(quiet=True))
        assert {name: (out / name).read_text() for name in texts if (out / name).exists()} == dict(list(texts.items())[:-1])
        card = (out / "README.md").read_text()
        assert ('license: "some-terms"' in card) == (model != "trained")
        assert ("under some-terms, by its own card" in card) == (model != "trained")
        assert "LICENSE, NOTICE.txt, Notice, USE_POLICY.md came with that model" in card


def test_a_gguf_has_the_dtype_of_the_weights_and_a_card_beside_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    metrics = export(ExportConfig(format="gguf"), model=tiny_checkpoint, out=tmp_path / "out", runtime=Runtime(quiet=True))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model-F32.gguf", "README.md"}
    assert (metrics["architecture"], metrics["tokenizer"], metrics["dtype"]) == ("qwen3", "llama-bpe", "fp32")
    assert "llama-cli -m model-F32.gguf" in (tmp_path / "out" / "README.md").read_text()


def test_settings_that_belong_to_another_format_are_refused() -> None:
    for values, message in (({"dtype": "q8_0"}, 'set format = "gguf"'), ({"format": "gguf", "lora": "beside"}, 'set format = "hf"')):
        _, mistakes = check_config(ExportConfig, values)
        assert len(mistakes) == 1 and message in mistakes[0]
