"""One process of a group: `python -m bloomery.pipeline.rank SPEC.json` runs a stage's function as its part of it.

launch.py writes SPEC.json and reads what is left beside it: result.json or stopped.json by rank 0, error.json by any.
Which process this is, and where the others are, says the environment, as torchrun's does.
"""

import logging
import signal
import sys
from pathlib import Path
from typing import Any  # Any: the values of a JSON document

from bloomery.core import dist
from bloomery.core.artifact import explain_os_errors
from bloomery.core.errors import BloomeryError, Stopped
from bloomery.core.files import read_json, write_json
from bloomery.core.metrics import MetricsLog
from bloomery.core.stage import Launch, Runtime
from bloomery.core.stopping import StopRequested, watch_for_sigterm
from bloomery.core.trackers import open_trackers
from bloomery.pipeline.launch import STOP
from bloomery.pipeline.ranks import die_with_parent
from bloomery.stages.catalog import load_stage

log = logging.getLogger(__name__)


def run_rank(spec_path: Path) -> int:
    """Runs this process's part; the exit code is 1 for an error that a user can mend, whose message is left in error.json."""
    spec = read_json(spec_path)
    stage = load_stage(spec["stage"])
    problem = spec_path.with_name("error.json")
    try:
        with dist.process_group(), watch_for_sigterm(flag=spec_path.with_name(STOP)) as stop_requested:
            first = dist.rank() == 0
            runtime = _open_runtime(spec, stop_requested, first=first)
            arguments = {slot: _to_paths(value) for slot, value in spec["arguments"].items()}
            try:
                with explain_os_errors(Path(spec["out"])):
                    metrics = stage.run(stage.config_type(**spec["config"]), **arguments, out=Path(spec["out"]), runtime=runtime)
            except BloomeryError as error:  # before the group is left: others may fail for it, and must find this one's words
                _tell(error, spec_path, first=first)
                return 0 if isinstance(error, Stopped) else 1
            finally:
                runtime.metrics.close()
            if first:
                write_json(spec_path.with_name("result.json"), dict(metrics))
    except BloomeryError as error:
        _tell(error, spec_path, first=True)
        return 1
    except Exception:
        if problem.is_file():
            return 1  # another process has told what is wrong; that it has gone is all that this one could add
        raise
    return 0


def _open_runtime(spec: dict[str, Any], stop_requested: StopRequested, *, first: bool) -> Runtime:
    launch, log_path = Launch(**spec["launch"]), Path(spec["metrics"])
    trackers = open_trackers(launch.trackers if first else (), folder=log_path.parent, label=spec["label"], settings=spec["config"])
    return Runtime(
        workers=spec["workers"],
        metrics=MetricsLog(log_path if first else None, trackers),
        label=spec["label"],
        quiet=not first,
        launch=launch,
        stop_requested=stop_requested,
    )


def _tell(error: BloomeryError, spec_path: Path, *, first: bool) -> None:
    if not isinstance(error, Stopped):
        try:
            write_json(spec_path.with_name("error.json"), {"kind": type(error).__name__, "message": str(error)})
        except OSError:  # the disk is full, and that is what there is to tell
            log.error("%s", error)
    elif first:
        write_json(spec_path.with_name("stopped.json"), {"message": str(error)})


def _to_paths(value: Any) -> Any:
    if isinstance(value, list):
        return [Path(item) for item in value]
    return None if value is None else Path(value)


if __name__ == "__main__":
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started us, which ends us
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.exit(run_rank(Path(sys.argv[1])))
