"""Starts the processes of a stage that trains on several devices, and waits for them.

Each is `python -m bloomery.pipeline.rank SPEC.json` with the environment that torchrun would give it (RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR, MASTER_PORT), and SPEC.json says what to do. We start them ourselves because torchrun prints a
report of its own over the one line that tells what is wrong. Of several machines the one where `bloomery run` was
called starts its own and says what to call on the others: `python -m bloomery.pipeline.ranks SPEC.json NODE`.
"""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from bloomery.core.files import read_json
from bloomery.core.stage import Launch

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
GRACE_SECONDS = 2.0
"""How long the others have to say what they know after one process failed; then they are killed, for they wait for it."""


def run_ranks(spec: Path, launch: Launch, *, node: int = 0) -> int:
    """Runs this machine's processes to their end; 0, or the exit code of the first that failed (-9: by signal 9)."""
    host, port = launch.rendezvous.rsplit(":", 1) if launch.nodes > 1 else ("127.0.0.1", str(_free_port()))
    if node == 0:
        for other in range(1, launch.nodes):
            log.info("waiting for machine %d of %d; call there: %s", other + 1, launch.nodes, _command_for_node(spec, other))
    group = {"MASTER_ADDR": host, "MASTER_PORT": port, "WORLD_SIZE": str(launch.num_processes)}
    threads = str(max(1, (os.cpu_count() or 1) // launch.devices))
    processes = []
    try:
        for local_rank in range(launch.devices):
            place = {"RANK": str(node * launch.devices + local_rank), "LOCAL_RANK": str(local_rank)}
            environment = {"OMP_NUM_THREADS": threads, **os.environ, **group, **place}
            command = [sys.executable, "-m", "bloomery.pipeline.rank", str(spec.absolute())]
            processes.append(subprocess.Popen(command, env=environment, preexec_fn=die_with_parent))
        return _wait(processes)
    finally:  # also after Ctrl-C: none may outlive us
        for process in processes:
            process.kill()
            process.wait()


def die_with_parent() -> None:
    """Asks the kernel to kill this process when the one that started it dies (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code]
        if failed:
            _wait_for_words(processes)
            return failed[0]
        if all(code == 0 for code in codes):
            return 0
        time.sleep(POLL_SECONDS)


def _wait_for_words(processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(POLL_SECONDS)


def _command_for_node(spec: Path, node: int) -> str:
    return f"{sys.executable} -m bloomery.pipeline.ranks {spec.absolute()} {node}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    path = Path(sys.argv[1])
    sys.exit(run_ranks(path, Launch(**read_json(path)["launch"]), node=int(sys.argv[2])))
