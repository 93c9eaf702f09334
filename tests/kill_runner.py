"""A process that imports bloomery once and then forks a child for every run it is asked for, so that a run starts at once.

Reads one JSON object a line: {"arguments": [...], "log": path} and how the child is to be killed, if it is:
`kill_in`, `kill_at`, `after`: it kills itself (SIGKILL) at the N-th rename or fsync in the work of that stage (or at the
one that ends its commit, if there are fewer), just before or just after it. `kill_seconds`: it is killed after that time.
Answers one JSON object a line: {"code": exit code or -9, "calls": [[operation, path], ...]}.
"""

import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from pathlib import Path


def main() -> None:
    # Not at the top: workers of a pool import this file again, and would import all this with it.
    import torch._dynamo  # noqa: F401  (the first step of an optimizer would import it, and that takes seconds)

    from bloomery.curate.language import identify_language
    from bloomery.pipeline import plan, report, run  # noqa: F401  (imported so that children need not)
    from bloomery.stages.catalog import STAGES, load_stage

    for name in STAGES:
        load_stage(name)
    identify_language("its model is read once, here")
    assert threading.active_count() == 1, "a fork must not lose threads"
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)


def serve(request: dict) -> dict:
    trace, child_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(trace)
        run_child(request, child_end)
    os.close(child_end)
    deadline = time.monotonic() + request.get("kill_seconds", float("inf"))
    pieces = []
    while True:
        ready, _, _ = select.select([trace], [], [], min(max(deadline - time.monotonic(), 0), 60))
        if ready and not (piece := os.read(trace, 1 << 16)):
            break
        if ready:
            pieces.append(piece)
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            break
    os.close(trace)
    _, status = os.waitpid(child, 0)
    text = b"".join(pieces).decode()
    return {"code": os.waitstatus_to_exitcode(status), "calls": [line.split("\t") for line in text.splitlines()]}


def run_child(request: dict, trace: int) -> None:
    import torch

    from bloomery.cli.main import app
    from bloomery.train import checkpoint

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
    torch.set_num_threads(1)
    checkpoint.SAVE_FRACTION = 1e9  # a snapshot after every step: more places to be killed at
    count = 0

    def counted(name, operation):
        def call(*arguments, **options):
            nonlocal count
            where = str(arguments[-1] if name != "fsync" else Path(f"/proc/self/fd/{arguments[0]}").readlink())
            os.write(trace, f"{name}\t{where}\n".encode())
            is_inside = f"/{request.get('kill_in')}-" in where
            count += is_inside
            ends_commit = name == "rename" and "/artifacts/" in where
            is_doomed = is_inside and (count == request.get("kill_at") or ends_commit)
            if is_doomed and not request.get("after"):
                os.kill(os.getpid(), signal.SIGKILL)
            result = operation(*arguments, **options)
            if is_doomed:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in ("replace", "rename", "fsync"):
        setattr(os, name, counted(name, getattr(os, name)))
    code = 1
    try:
        app(request["arguments"])
    except SystemExit as done:
        code = int(done.code or 0)
    except Exception:  # noqa: BLE001  (whatever it is, the test must see it)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
