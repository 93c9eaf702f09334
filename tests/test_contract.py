"""What every stage promises, tested for each on the tiny line of tests/data/tiny.toml.

The same inputs and config give the same bytes, with one worker or two; a second call on a finished folder changes
nothing; inputs are only read; metrics are plain numbers that say the same each time.
"""

import hashlib
import inspect
import json
from pathlib import Path

import pytest
import torch

from bloomery.core.artifact import Store
from bloomery.core.files import remove_temporary_files
from bloomery.core.fingerprint import canonical_json, fingerprint
from bloomery.core.metrics import MetricsLog
from bloomery.core.stage import Runtime
from bloomery.pipeline.plan import input_paths, make_plan
from bloomery.pipeline.recipe import load_recipe
from bloomery.pipeline.run import run_plan
from bloomery.stages.catalog import STAGES, load_stage

RECIPE = Path(__file__).resolve().parent / "data" / "tiny.toml"
SENTENCE = "The smith of village number {} carries {} baskets of ore and charcoal to the furnace before it is dark. "


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """The tiny line, run once: its steps by node id, and the store."""
    folder = tmp_path_factory.mktemp("contract")
    texts = ["".join(SENTENCE.format(i, i * j % 97 + 2) for j in range(3 + i % 5)) for i in range(40)]
    rows = [json.dumps({"text": text}) for text in [*texts, texts[7], "Too short."]]
    (folder / "texts.jsonl").write_text("\n".join(rows))
    votes = [
        {
            "item": str(i),
            "prompt": [{"role": "user", "content": f"Where is basket {i}?"}],
            "completions": ["There.", "I do not know."],
            "votes": [{"annotator": "ann", "choice": "ab"[i % 2], "ranks": [1, 2] if i % 2 == 0 else [2, 1]}],
        }
        for i in range(4)
    ]
    (folder / "votes.jsonl").write_text("\n".join(map(json.dumps, votes)))
    store = Store(folder / "store")
    labels = [f"{node}.inputs.labels=file:{folder}/votes.jsonl" for node in ("dpo", "reward")]
    recipe = load_recipe(RECIPE, overrides=[f"texts.inputs.pages=file:{folder}/texts.jsonl", *labels])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_plan(make_plan(recipe, store), store)
    yield {step.node.id: step for step in make_plan(recipe, store).steps}, store
    torch.set_num_threads(threads)


def node_ids() -> list[str]:
    import tomllib

    return list(tomllib.loads(RECIPE.read_text())["stages"])


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    visible = [path for path in files if not path.relative_to(folder).parts[0].startswith(".")]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in visible}


def run_step(step, out: Path, *, workers: int = 1):
    out.mkdir(exist_ok=True)
    runtime = Runtime(workers=workers, metrics=MetricsLog(out.with_name("metrics.jsonl")), label=step.node.id)
    return step.node.stage.run(step.node.config, **input_paths(step), out=out, runtime=runtime)


def test_the_tiny_line_has_every_stage_of_the_catalog(line):
    steps, _ = line
    assert {step.node.stage.name for step in steps.values()} == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_says_what_it_is_and_its_function_takes_its_slots(name):
    stage = load_stage(name)
    assert stage.name == name
    assert stage.version >= 1
    assert stage.config_type.__doc__ and stage.run.__doc__
    parameters = inspect.signature(stage.run).parameters
    assert next(iter(parameters)) == "config"
    keywords = {key for key, parameter in parameters.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    assert keywords == {*stage.inputs, "out", "runtime"}
    for slot_name, slot in stage.inputs.items():
        has_default = parameters[slot_name].default is not inspect.Parameter.empty
        assert not has_default or slot.optional, f"{slot_name} has a default but is not optional"


@pytest.mark.parametrize("node_id", node_ids())
def test_the_same_inputs_and_config_give_the_same_fingerprint(line, node_id):
    step = line[0][node_id]
    stage = step.node.stage
    again = stage.config_type(**json.loads(canonical_json(step.node.config.model_dump(mode="json"))))
    assert again == step.node.config
    print_ = fingerprint(stage=stage.name, version=stage.version, config=again, inputs=step.inputs, facts=stage.facts(again))
    assert print_ == step.fingerprint


@pytest.mark.parametrize("node_id", node_ids())
def test_a_stage_run_elsewhere_with_two_workers_makes_the_same_bytes_and_a_second_call_changes_nothing(line, node_id, tmp_path):
    steps, store = line
    step = steps[node_id]
    artifact = store.artifact_path(step.node.stage.name, step.fingerprint)
    record = json.loads((artifact / "artifact.json").read_text())
    inputs_before = {path: hashes(path) for paths in step.paths.values() for path in paths if path.is_dir()}
    out = tmp_path / "out"

    metrics = run_step(step, out, workers=2)
    assert hashes(out) == {name: file["sha256"] for name, file in record["files"].items()}
    assert dict(metrics) == record["metrics"]
    assert json.loads(canonical_json(dict(metrics))) == record["metrics"]

    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and ".scratch" not in path.parts}
    assert dict(run_step(step, out)) == record["metrics"]
    assert hashes(out) == {name: file["sha256"] for name, file in record["files"].items()}
    remove_temporary_files(out)
    assert set(stamps) == {path for path in out.rglob("*") if path.is_file() and ".scratch" not in path.parts}
    assert {path: hashes(path) for path in inputs_before} == inputs_before
