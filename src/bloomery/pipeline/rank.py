"""One of torchrun's processes: `python -m bloomery.pipeline.rank SPEC.json` runs a stage's function as its part of the group.

launch.py writes SPEC.json and reads result.json and error.json beside it, which rank 0 leaves there.
"""

import logging
import sys
from pathlib import Path
from typing import Any  # Any: the values of a JSON document

from bloomery.core import dist
from bloomery.core.errors import BloomeryError, Stopped
from bloomery.core.files import read_json, write_json
from bloomery.core.metrics import MetricsLog
from bloomery.core.stage import Launch, Runtime
from bloomery.core.stopping import watch_for_sigterm
from bloomery.core.trackers import open_trackers
from bloomery.pipeline.launch import STOP, die_with_parent
from bloomery.stages.catalog import load_stage


def run_rank(spec_path: Path) -> int:
    """Runs this process's part; the exit code is 1 for an error that a user can mend, whose message is left in error.json."""
    spec = read_json(spec_path)
    stage = load_stage(spec["stage"])
    with dist.process_group(), watch_for_sigterm(flag=spec_path.with_name(STOP)) as stop_requested:
        first = dist.rank() == 0
        launch, log_path = Launch(**spec["launch"]), Path(spec["metrics"])
        names = launch.trackers if first else ()
        trackers = open_trackers(names, folder=log_path.parent, label=spec["label"], settings=spec["config"])
        runtime = Runtime(
            workers=spec["workers"],
            metrics=MetricsLog(log_path if first else None, trackers),
            label=spec["label"],
            quiet=not first,
            launch=launch,
            stop_requested=stop_requested,
        )
        arguments = {slot: _to_paths(value) for slot, value in spec["arguments"].items()}
        try:
            metrics = stage.run(stage.config_type(**spec["config"]), **arguments, out=Path(spec["out"]), runtime=runtime)
        except Stopped as stopped:
            if first:
                write_json(spec_path.with_name("stopped.json"), {"message": str(stopped)})
            return 0  # to torchrun nothing went wrong
        except BloomeryError as error:
            write_json(spec_path.with_name("error.json"), {"message": str(error)})
            return 1
        finally:
            runtime.metrics.close()
        if first:
            write_json(spec_path.with_name("result.json"), dict(metrics))
    return 0


def _to_paths(value: Any) -> Any:
    if isinstance(value, list):
        return [Path(item) for item in value]
    return None if value is None else Path(value)


if __name__ == "__main__":
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.exit(run_rank(Path(sys.argv[1])))
