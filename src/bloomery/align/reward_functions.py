"""Reward functions of your own, with TRL's signature: `(prompts, completions, **columns) -> list[float | None]`.

What works with TRL's trainers works here unchanged: each column of the rows comes as a list, prompts of messages make completions of
messages, None leaves a sample out, a coroutine is waited for. The file is an input of the stage, so that its bytes are part
of what is made. It is your code and runs with your rights; what a model writes is only handed to it as text.
"""

import asyncio
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any  # Any: what a stranger's function takes and gives

from bloomery.align.reward_source import Answer, RewardSource, Row, prompt_messages
from bloomery.core.config import suggest
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import expand

Function = Callable[..., Any]

NOT_COLUMNS = ("messages", "prompt", "completion", "completion_ids")
SETTINGS: Mapping[str, Any] = {"trainer_state": None, "log_extra": lambda *_: None, "log_metric": lambda *_: None}
"""What TRL's trainers hand in beside the columns; here nothing hangs on the state of a trainer, and nothing is logged by it."""


def find_function(paths: Sequence[Path], name: str) -> Function:
    """The function `name` of Python files; "" is the only public one there is. Raises ConfigError where there is none, or more than one."""
    if not paths:
        raise ConfigError('rewards: source = "function" needs a Python file as the input `functions`: functions = "file:rewards.py"')
    found: dict[str, list[tuple[Path, Function]]] = {}
    for path in expand(list(paths), suffixes=(".py",)):
        for key, function in _public_functions(_load(path), path).items():
            found.setdefault(key, []).append((path, function))
    if not name and len(found) == 1:
        name = next(iter(found))
    if name not in found:
        wanted = f'no function is named "{name}"' if name else "there are several functions; set `function`"
        raise ConfigError(f"rewards: {wanted} in {', '.join(map(str, paths))}; {suggest(name, found)}")
    if len(found[name]) > 1:
        raise ConfigError(f'rewards: "{name}" stands in {" and in ".join(str(path) for path, _ in found[name])}; rename one of them')
    return found[name][0][1]


def function_source(function: Function) -> RewardSource:
    """A function as a source. What it raises, and what is no list of one finite number or None for each sample, is a DataError."""
    name, where = function.__name__, inspect.getsourcefile(function)
    takes = inspect.signature(function).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())

    def score(rows: Sequence[Row], answers: Sequence[Answer]) -> list[float | None]:
        if not rows:
            return []
        given = {**SETTINGS, **_columns(rows, answers)}
        arguments = given if takes_all else {key: value for key, value in given.items() if key in takes}
        try:
            found = function(**arguments)
            found = asyncio.run(found) if inspect.iscoroutine(found) else found
        except Exception as error:
            raise DataError(f"{where}: the reward function {name} raised {_describe(error, where)}; {_what_it_got(given)}") from error
        return _check(found, len(rows), f"{where}: the reward function {name}")

    return score


def _columns(rows: Sequence[Row], answers: Sequence[Answer]) -> dict[str, Any]:
    prompts: list[Any] = []
    completions: list[Any] = []
    for row, answer in zip(rows, answers, strict=True):
        is_text = isinstance(row.get("prompt"), str) and "messages" not in row
        prompts.append(row["prompt"] if is_text else prompt_messages(row))
        completions.append(answer.text if is_text else [{"role": "assistant", "content": answer.text}])
    names = sorted({key for row in rows for key in row if key not in NOT_COLUMNS})
    return {"prompts": prompts, "completions": completions, **{name: [row.get(name) for row in rows] for name in names}}


def _check(found: Any, count: int, who: str) -> list[float | None]:
    # Arrays and tensors have tolist; nothing else is asked of them.
    values = found.tolist() if hasattr(found, "tolist") else found
    if not isinstance(values, list | tuple):
        raise DataError(f"{who} gave {found!r:.80}; expected a list of {count} numbers or None")
    if len(values) != count:
        raise DataError(f"{who} gave {len(values)} rewards for {count} samples; expected one each")
    for i, value in enumerate(values):
        is_number = hasattr(value, "__float__") and not isinstance(value, str)
        if value is not None and not (is_number and math.isfinite(float(value))):
            raise DataError(
                f"{who} gave {value!r:.80} for sample {i} of {count}; expected a finite number, or None to leave the sample out"
            )
    return [None if value is None else float(value) for value in values]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bloomery_rewards_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"rewards: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    writes_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # the folder is an input, and inputs are only read
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"rewards: {path} cannot be loaded: it raised {_describe(error, str(path))}") from error
    finally:
        sys.dont_write_bytecode = writes_bytecode
    return module


def _public_functions(module: ModuleType, path: Path) -> dict[str, Function]:
    own = {key: value for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__}
    # Helpers take other things: a reward function is known by TRL's first names.
    found: dict[str, Function] = {key: value for key, value in own.items() if not key.startswith("_") and _takes_completions(value)}
    if not found:
        raise ConfigError(f"rewards: {path} has no function that takes `completions`; expected (prompts, completions, **columns)")
    return found


def _takes_completions(function: Function) -> bool:
    return "completions" in inspect.signature(function).parameters


def _describe(error: Exception, where: str | None) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == where]
    return f"{type(error).__name__}: {error}" + (f" (line {lines[-1]})" if lines else "")


def _what_it_got(given: Mapping[str, Any]) -> str:
    columns = [key for key in given if key not in SETTINGS]
    return f"it got {len(given['prompts'])} samples and the columns {', '.join(columns)}"
