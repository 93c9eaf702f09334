"""One stage without a store: DIR appears whole, a second call finds it, and mistakes are told at once."""

import dataclasses

import pytest

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_text
from bloomery.pipeline.single import parse_inputs, parse_settings, run_single_stage


def test_a_stage_makes_its_folder_and_a_second_call_finds_it(toys, tmp_path):
    (tmp_path / "a.txt").write_text("9")
    options = {"inputs": {"files": [str(tmp_path / "*.txt")]}, "settings": {"count": 2}, "out": tmp_path / "out"}
    first = run_single_stage(toys.find("numbers"), **options)
    assert read_json(tmp_path / "out" / "numbers.json") == [0, 1, 9]
    assert run_single_stage(toys.find("numbers"), **options).record == first.record
    assert toys.calls == ["numbers"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_one_stage_made_is_an_input_for_the_next(toys, tmp_path):
    run_single_stage(toys.find("numbers"), inputs={}, settings={"count": 2}, out=tmp_path / "numbers")
    run_single_stage(toys.find("add"), inputs={"documents": [str(tmp_path / "numbers")]}, settings={}, out=tmp_path / "more")
    assert read_json(tmp_path / "more" / "numbers.json") == [1, 2]
    with pytest.raises(ConfigError, match="holds documents; expected pages"):
        run_single_stage(toys.find("numbers"), inputs={"files": [str(tmp_path / "more")]}, settings={}, out=tmp_path / "x")


def test_a_failed_stage_leaves_no_folder_and_continues_from_its_work(toys, tmp_path):
    def fail_once(config, *, files, out, runtime):
        if not (out / "part.txt").exists():
            write_text(out / "part.txt", "done")
            raise DataError("broken")
        return {}

    stage = dataclasses.replace(toys.find("numbers"), run=fail_once)
    with pytest.raises(DataError, match="broken"):
        run_single_stage(stage, inputs={}, settings={}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(run_single_stage(stage, inputs={}, settings={}, out=tmp_path / "out").record["files"]) == ["part.txt"]


def test_mistakes_are_told_at_once(toys, tmp_path):
    with pytest.raises(ConfigError) as caught:
        run_single_stage(toys.find("add"), inputs={"texts": ["x"]}, settings={"amuont": 1}, out=tmp_path / "out", devices=2)
    message = str(caught.value)
    for fact in ('did you mean "amount"', 'no input "texts"', "--input documents=...: the stage add needs documents", "--devices 2"):
        assert fact in message
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_settings(["a"])
    with pytest.raises(ConfigError, match="expected slot=PATH"):
        parse_inputs(["a="])


def test_options_make_tables_and_lists():
    assert parse_settings(["a.b=1", "a.c=x y", "d=[1]"]) == {"a": {"b": 1, "c": "x y"}, "d": [1]}
    assert parse_inputs(["a=x", "a=y", "b=z=1"]) == {"a": ["x", "y"], "b": ["z=1"]}
