"""Plans: what must run, and the reason in words."""

import dataclasses
import json

import pytest

from bloomery.core.errors import ConfigError, DataError
from bloomery.pipeline.run import run_plan


def reasons(plan):
    return {step.node.id: step.reason for step in plan.steps}


def test_everything_is_never_made_at_first_and_done_after_a_run(toys, store, states):
    assert reasons(toys.plan(store)) == {"small": "never made", "more": "never made", "verdict": "never made"}
    run_plan(toys.plan(store), store)
    assert set(states(toys.plan(store)).values()) == {"done"}
    assert toys.plan(store).is_done


def test_a_changed_setting_reruns_exactly_the_stages_below_it_and_says_why(toys, store, states):
    run_plan(toys.plan(store), store)
    plan = toys.plan(store, "more.amount=2")
    assert states(plan) == {"small": "done", "more": "run", "verdict": "run"}
    assert reasons(plan)["more"] == "config changed: amount 1 -> 2"
    assert reasons(plan)["verdict"] == "input changed: more"


def test_a_setting_put_back_finds_its_older_artifact(toys, store):
    run_plan(toys.plan(store), store)
    run_plan(toys.plan(store, "more.amount=2"), store)
    assert toys.plan(store).is_done


def test_a_changed_inner_table_is_named_with_its_dots(toys, store):
    run_plan(toys.plan(store), store)
    assert reasons(toys.plan(store, "small.limits.low=4"))["small"] == "config changed: limits.low 0 -> 4"


def test_a_bumped_version_and_changed_facts_are_reasons(toys, store):
    run_plan(toys.plan(store), store)
    toys.stages["add"] = dataclasses.replace(toys.stages["add"], version=2)
    toys.stages["numbers"] = dataclasses.replace(toys.stages["numbers"], facts=lambda config: {"python": "3.99"})
    found = reasons(toys.plan(store))
    assert found["small"] == "facts changed: python (default) -> 3.99"
    assert found["more"] == "stage version 1 -> 2"


def test_rebuild_makes_a_node_and_all_below_it_again(toys, store, states):
    run_plan(toys.plan(store), store)
    plan = toys.plan(store, rebuild=("more",))
    assert states(plan) == {"small": "done", "more": "run", "verdict": "run"}
    assert reasons(plan) == {"small": "done", "more": "--rebuild", "verdict": "input rebuilt: more"}
    toys.calls.clear()
    run_plan(plan, store)
    assert toys.calls == ["add", "judge"]
    with pytest.raises(ConfigError, match=r'--rebuild mor: .*did you mean "more"'):
        toys.plan(store, rebuild=("mor",))


def test_only_runs_one_node_and_refuses_when_its_inputs_are_missing(toys, store, states):
    with pytest.raises(ConfigError, match="--only more: its inputs are not made yet: small"):
        toys.plan(store, only="more")
    run_plan(toys.plan(store, only="small"), store)
    assert states(toys.plan(store, only="more")) == {"small": "done", "more": "run", "verdict": "left out"}


def test_an_artifact_with_a_missing_or_cut_file_is_made_again(toys, store, states):
    run_plan(toys.plan(store), store)
    file = store.root / "toy" / "more" / "numbers.json"
    file.write_text("[")
    plan = toys.plan(store)
    assert "numbers.json has 1 bytes" in reasons(plan)["more"]
    run_plan(plan, store)
    assert json.loads(file.read_text()) == [4, 5]
    assert toys.plan(store).is_done


def test_files_are_inputs_by_name_and_bytes_and_not_by_place(toys, store, tmp_path, states):
    text = 'name = "toy"\n[stages.small]\nstage = "numbers"\ninputs = { files = "file:FOLDER/*.txt" }\n'
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("11")
    one = text.replace("FOLDER", str(tmp_path / "one"))
    run_plan(toys.plan(store, text=one), store)
    assert toys.plan(store, text=text.replace("FOLDER", str(tmp_path / "two"))).is_done
    (tmp_path / "one" / "a.txt").write_text("12")
    assert states(toys.plan(store, text=one)) == {"small": "run"}
    (tmp_path / "one" / "a.txt").unlink()
    with pytest.raises(DataError, match=r"small\.inputs\.files: .*found no file there"):
        toys.plan(store, text=one)


def test_an_artifact_of_another_kind_is_refused_as_a_file_input(toys, store):
    run_plan(toys.plan(store), store)
    text = f'name = "toy"\n[stages.small]\nstage = "numbers"\ninputs = {{ files = "file:{store.root}/toy/small" }}\n'
    with pytest.raises(ConfigError, match="holds documents; expected pages"):
        toys.plan(store, text=text)
