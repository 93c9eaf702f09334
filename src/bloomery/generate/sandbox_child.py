"""What runs inside the code sandbox: a judge with the tests, and a process of its own for the code that is judged.

    parent (sandbox.py) -> judge     stdin: the limits and the program; then, when the candidate is apart, the tests
    judge <-> candidate              two pipes: calls of the program's functions, and plain values back
    judge -> parent                  the verdict, on a pipe that the candidate does not have

The two share nothing: the candidate is forked before the judge has read the tests, so they are not in its memory, and all
that it can ever do to the verdict is to return values. These are decoded into new plain ones (numbers, text, bytes, lists,
tuples, sets, dicts): an object of the candidate's own, whose `==` might say yes to anything, stays on its side, and here is a
Remote that equals nothing else. Runs on the standard library alone, in a bare interpreter.
"""

import builtins
import contextlib
import json
import linecache
import os
import resource
import signal
import struct
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from random import seed as seed_everything
from typing import Any  # Any: values of programs, which may be anything

from bloomery.generate.sandbox_walls import Limits, Unsafe, die_with_parent, raise_walls, separate_processes

MAX_MESSAGE_BYTES = 16 << 20
_COLLECTIONS: dict[str, type[tuple[Any, ...]] | type[set[Any]] | type[frozenset[Any]] | type[list[Any]]] = {
    "tuple": tuple, "set": set, "frozenset": frozenset, "list": list,
}  # fmt: skip


class CandidateEnded(BaseException):
    """The candidate's process is gone, or speaks nonsense. Not an Exception: no test may take it for one of the program's."""


class CandidateError(Exception):
    """An exception of the program's that Python itself does not have, or one that is none of a test's business."""


def run_inside() -> None:
    """The whole life of the judge's process."""
    request = json.loads(read_message(0))
    try:
        die_with_parent(request["parent"])
        limits = Limits(*request["limits"])
        calls, replies = os.pipe(), os.pipe()
        separate_processes()
        judge_pid = os.getpid()
        child = os.fork()
        if child == 0:
            os.close(request["verdict"])
            os.close(calls[1])
            os.close(replies[0])
            _be_candidate(request, limits, Channel(calls[0], replies[1]), judge_pid)
        os.close(calls[0])
        os.close(replies[1])
        raise_walls(limits, scratch=None)
        channel = Channel(replies[0], calls[1])
        write_message(request["verdict"], json.dumps({"walls": True}).encode())
        verdict = _judge(json.loads(read_message(0)), channel, child)
    except Unsafe as error:
        verdict = {"reason": "unsafe", "detail": str(error)}
    write_message(request["verdict"], json.dumps(verdict).encode())
    os._exit(0)


class Channel:
    """The pipes between judge and candidate, and the candidate's objects that have a number instead of a value."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.objects: list[Any] = []
        self.number_of: dict[int, int] = {}

    def send(self, message: dict[str, Any]) -> None:
        """Raises CandidateEnded if nobody reads any more."""
        try:
            write_message(self.outgoing, json.dumps(message).encode())
        except OSError as error:
            raise CandidateEnded("the program ended before its tests") from error

    def receive(self) -> dict[str, Any]:
        """Raises CandidateEnded for the end of the pipe and for what is no message."""
        try:
            message = json.loads(read_message(self.incoming))
        except EOFError as error:
            raise CandidateEnded("the program ended before its tests") from error
        except (ValueError, RecursionError) as error:
            raise CandidateEnded("what came back is no value") from error
        if not isinstance(message, dict):
            raise CandidateEnded("what came back is no value")
        return message

    def number(self, value: object) -> int:
        """A number for an object that stays on this side."""
        if id(value) not in self.number_of:
            self.number_of[id(value)] = len(self.objects)
            self.objects.append(value)
        return self.number_of[id(value)]


def pack(value: Any, refer: Callable[[Any], dict[str, Any]]) -> Any:
    """A value as JSON; `refer` says what stands for one that is not plain."""
    if value is None or isinstance(value, bool | str):
        return value if value is None or isinstance(value, bool) else str(value)
    if isinstance(value, int):
        return int(value) if -(1 << 63) <= value < 1 << 63 else {"int": hex(value)}
    if isinstance(value, float):
        return float(value)
    if type(value) is list:
        return [pack(item, refer) for item in value]
    if isinstance(value, dict):
        return {"dict": [[pack(key, refer), pack(item, refer)] for key, item in value.items()]}
    if isinstance(value, bytes | bytearray):
        return {"bytearray" if isinstance(value, bytearray) else "bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, tuple | set | frozenset | list):
        name = next(name for name, kind in _COLLECTIONS.items() if isinstance(value, kind))
        return {name: [pack(item, refer) for item in value]}
    return refer(value)


def unpack(value: Any, resolve: Callable[[int], Any]) -> Any:
    """The plain value of `pack`; `resolve` gives what a number stands for. Raises ValueError or TypeError for what is none."""
    if isinstance(value, list):
        return [unpack(item, resolve) for item in value]
    if not isinstance(value, dict):
        return value
    ((name, body),) = value.items()
    if name == "dict":
        return {unpack(key, resolve): unpack(item, resolve) for key, item in body}
    if name in _COLLECTIONS:
        return _COLLECTIONS[name](unpack(item, resolve) for item in body)
    if name == "int":
        return int(body, 16)
    if name == "complex":
        return complex(float(body[0]), float(body[1]))
    if name in ("bytes", "bytearray"):
        return bytes.fromhex(body) if name == "bytes" else bytearray.fromhex(body)
    if name == "object":
        return resolve(int(body))
    raise ValueError(f"no value: {name}")


# The judge's side.


class Remote:
    """An object, function or class of the program's. Everything asked of it is done over there; it equals only itself."""

    def __init__(self, channel: Channel, target: dict[str, Any]) -> None:
        vars(self)["_channel"], vars(self)["_target"] = channel, target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _ask(self, "call", args=args, kwargs=kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _ask(self, "get", args=(name,))

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "set", args=(name, value))

    def __iter__(self) -> Iterator[Any]:
        iterator = _ask(self, "iterate")
        while (step := _ask(iterator, "next")) != ():
            yield step[0]

    def __len__(self) -> int:
        return int(_ask(self, "length"))

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and vars(self)["_target"] == vars(other)["_target"]

    __hash__ = None  # type: ignore[assignment]  # two of them are equal by what they stand for, as lists are


def _ask(remote: Remote, what: str, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
    channel: Channel = vars(remote)["_channel"]
    sent = {"args": pack(list(args), _refer_to_remote), "kwargs": pack(kwargs or {}, _refer_to_remote)}
    channel.send({"do": what, "target": vars(remote)["_target"], **sent})
    reply = channel.receive()
    if "error" in reply:
        raise _error_of(str(reply["error"]), str(reply.get("text", "")))
    try:
        result = unpack(reply["value"], lambda number: Remote(channel, {"object": number}))
        changed = unpack(reply.get("args"), lambda number: Remote(channel, {"object": number}))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CandidateEnded("what came back is no value") from error
    for mine, theirs in zip(args, changed or (), strict=False):
        _copy_into(mine, theirs)
    return result


def _copy_into(mine: Any, theirs: Any) -> None:
    # A program may sort the list that it was given: the tests must see it sorted.
    if type(mine) is not type(theirs):
        return
    if isinstance(mine, list | bytearray):
        mine[:] = theirs
    elif isinstance(mine, dict | set):
        mine.clear()
        mine.update(theirs)


def _refer_to_remote(value: Any) -> dict[str, Any]:
    if isinstance(value, Remote):
        target: dict[str, Any] = vars(value)["_target"]
        return target
    raise CandidateError(f"the tests give the program a {type(value).__name__}, which cannot be sent to it")


def _error_of(name: str, text: str) -> Exception:
    kind = getattr(builtins, name, None)  # by its name alone: what the program raises is data here
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # UnicodeDecodeError and the like want more than a text
            pass
    return CandidateError(f"{name}: {text}")


def _judge(request: dict[str, Any], channel: Channel, child: int) -> dict[str, str]:
    source, setup, functions = request["tests"], request["setup"], request["functions"]
    namespace: dict[str, Any] = {"__name__": "tests"}
    linecache.cache["<tests>"] = (len(source), None, source.splitlines(keepends=True), "<tests>")
    seed_everything(0)  # of this process: programs and tests that draw must do the same each time
    try:
        before = channel.receive()  # sent before the program runs, so it cannot be the program's word
        if "unsafe" in before:
            return {"reason": "unsafe", "detail": str(before["unsafe"])}
        first = channel.receive()
        if "error" in first:
            return _describe_error(str(first["error"]), str(first.get("text", "")), str(first.get("where", "")))
        codes = [compile(setup, "<setup>", "exec"), compile(source, "<tests>", "exec")]
        for name in [name for code in codes for name in _names_in(code) if not hasattr(builtins, name)]:
            namespace[name] = Remote(channel, {"name": name})
        exec(codes[0], namespace)
        namespace |= {name: Remote(channel, {"name": name}) for name in functions}
        exec(codes[1], namespace)
    except CandidateEnded as error:
        return _describe_end(str(error), channel, child)
    except BaseException as error:  # noqa: BLE001 - whatever it is, SystemExit too, the tests have not passed
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<tests>"]
        where = f"line {frames[-1].lineno} of the tests: {frames[-1].line}" if frames else "the tests"
        return _describe_error(type(error).__name__, str(error), where)
    return {"reason": "passed", "detail": ""}


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _describe_error(name: str, text: str, where: str) -> dict[str, str]:
    reason = "wrong" if name == "AssertionError" else "memory" if name == "MemoryError" else "error"
    return {"reason": reason, "detail": f"{name}{': ' * bool(text)}{text[:500]} ({where[:500]})"}


def _describe_end(text: str, channel: Channel, child: int) -> dict[str, str]:
    os.close(channel.outgoing)
    os.close(channel.incoming)  # a candidate that has lost its judge ends, or the parent ends it in time
    _, status, usage = os.wait4(child, 0)
    how = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    if how in (-signal.SIGXCPU, -signal.SIGKILL) and seconds >= resource.getrlimit(resource.RLIMIT_CPU)[0] - 0.5:
        return {"reason": "time", "detail": f"stopped after {seconds:.1f} s of CPU time"}
    manner = f"signal {-how}" if how < 0 else f"exit status {how}"
    return {"reason": "ended", "detail": f"{text} ({manner})"}


# The candidate's side.


def _be_candidate(request: dict[str, Any], limits: Limits, channel: Channel, judge_pid: int) -> None:
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    try:
        die_with_parent(0 if os.getpid() == 1 else judge_pid)
        raise_walls(limits, scratch=request["scratch"])
    except Unsafe as error:
        channel.send({"unsafe": str(error)})
        os._exit(0)
    channel.send({"walls": True})
    program = types.ModuleType("candidate")
    sys.modules["candidate"] = program
    seed_everything(0)
    source = request["program"]
    linecache.cache["<program>"] = (len(source), None, source.splitlines(keepends=True), "<program>")
    with contextlib.suppress(CandidateEnded):
        try:
            exec(compile(source, "<program>", "exec"), program.__dict__)
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are the program's errors as any other
            channel.send(_error_reply(error))
            os._exit(0)
        channel.send({"ready": True})
        while True:
            channel.send(_answer(channel.receive(), program.__dict__, channel))
    os._exit(0)


def _answer(message: dict[str, Any], namespace: dict[str, Any], channel: Channel) -> dict[str, Any]:
    def refer(value: Any) -> dict[str, Any]:
        return {"object": channel.number(value)}

    try:
        target = message["target"]
        found = channel.objects[target["object"]] if "object" in target else _look_up(namespace, target["name"])
        args, kwargs = (unpack(message[key], lambda number: channel.objects[number]) for key in ("args", "kwargs"))
        value = _act(message["do"], found, args, kwargs)
        reply = {"value": pack(value, refer)}
        after = pack(args, refer)
        return reply | ({"args": after} if after != message["args"] else {})
    except BaseException as error:  # noqa: BLE001 - as above
        return _error_reply(error)


def _look_up(namespace: dict[str, Any], name: str) -> Any:
    if name not in namespace:
        raise NameError(f"name {name!r} is not defined")
    return namespace[name]


def _act(what: str, target: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if what == "call":
        return target(*args, **kwargs)
    if what == "get":
        return getattr(target, args[0])
    if what == "set":
        return setattr(target, args[0], args[1])
    if what == "iterate":
        return _Steps(iter(target))
    if what == "length":
        return len(target)
    return target.step()


class _Steps:
    """An iterator that stays here; the judge asks for its values one by one, () after the last."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.iterator = iterator

    def step(self) -> tuple[Any, ...]:
        try:
            return (next(self.iterator),)
        except StopIteration:
            return ()


def _error_reply(error: BaseException) -> dict[str, Any]:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<program>"]
    where = f"line {frames[-1].lineno} of the program: {frames[-1].line}" if frames else "the program"
    try:
        text = str(error)[:1000]
    except Exception:  # noqa: BLE001 - the program's own __str__
        text = ""
    return {"error": type(error).__name__, "text": text, "where": where}


# Messages: four bytes of length, then JSON.


def read_message(descriptor: int) -> bytes:
    """One message. Raises EOFError if the other side has closed, ValueError if it is larger than any of ours."""
    (size,) = struct.unpack("<I", _read_exactly(descriptor, 4))
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {size} bytes; at most {MAX_MESSAGE_BYTES} are read")
    return _read_exactly(descriptor, size)


def write_message(descriptor: int, body: bytes) -> None:
    """Writes one message, whole."""
    rest = memoryview(struct.pack("<I", len(body)) + body)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_exactly(descriptor: int, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(descriptor, min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError("the other side has closed")
        parts += part
    return bytes(parts)
