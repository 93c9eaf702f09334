"""bloomery doctor: what is wrong with the trainings of a run, with evidence and a remedy."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any  # Any: values of a JSON object

import typer

from bloomery.cli.display import Debug, Json, print_json, print_text, session
from bloomery.cli.options import DEFAULT_STORE, StoreOption

if TYPE_CHECKING:
    from bloomery.diagnosis.finding import Finding
    from bloomery.pipeline.checkup import Training

DOCTOR_EXAMPLES = (
    "Examples:\n\n    bloomery doctor quickstart\n\n    bloomery doctor runs/quickstart --node base --deep\n\n"
    "    bloomery doctor runs/logs/pretrain-0123456789abcdef/metrics.jsonl --json\n\n"
    "Exit code 1 says that something of severity error was found (with --strict also a warning). docs/doctor.md explains each finding."
)


def doctor(
    run: Annotated[str, typer.Argument(help="A run, a folder of `bloomery stage`, or a metrics.jsonl.", metavar="RUN")],
    node: Annotated[str | None, typer.Option("--node", help="Only this training of the run.", metavar="ID")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also look at weights and data, and at what the model knows by heart.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for a warning, too.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what is wrong with the trainings of a run, finished or live: loss, rates, data, machine, rewards."""
    with session(as_json=as_json, debug=debug):
        from bloomery.core.config import suggest
        from bloomery.core.errors import ConfigError, DataError
        from bloomery.core.metrics import read_metrics
        from bloomery.diagnosis.diagnose import diagnose
        from bloomery.pipeline.checkup import open_trainings

        if deep:
            from bloomery.cli.deep_look import measure

        trainings = {training.facts.node: training for training in open_trainings(run, store)}
        if node is not None and node not in trainings:
            raise ConfigError(f"--node {node}: {run} has no training of that id; {suggest(node, trainings)}")
        chosen = [training for name, training in trainings.items() if node in (None, name)]
        if not any(training.metrics.is_file() for training in chosen):
            raise DataError(f"{run}: no training has begun. `bloomery status {run}` shows how far it is.")
        told, worst = [], set()
        for training in chosen:
            rows = read_metrics(training.metrics)
            facts = replace(training.facts, measured=measure(training) if deep else {})
            found = diagnose(rows, facts) if rows else []
            worst |= {finding.severity for finding in found}
            told.append(_tell(training, found, steps=_last_step(rows), measured=dict(facts.measured)))
            if not as_json:
                _show(told[-1], found)
        is_ill = "error" in worst or (strict and "warning" in worst)
        if as_json:
            print_json({"run": run, "healthy": not worst - {"note"}, "trainings": told})
        elif not worst - {"note"}:
            print_text("Nothing is wrong that the doctor knows of." + ("" if deep else " --deep looks at weights, data and memory, too."))
        if is_ill:
            raise typer.Exit(1)


def _tell(training: "Training", found: Sequence["Finding"], *, steps: int, measured: dict[str, float]) -> dict[str, Any]:
    facts = training.facts
    state = "finished" if facts.finished else "begun" if steps else "waiting"
    return {
        "node": facts.node,
        "stage": facts.stage,
        "state": state,
        "steps": steps,
        "findings": [asdict(f) for f in found],
        "measured": measured,
    }


def _show(told: dict[str, Any], found: Sequence["Finding"]) -> None:
    print_text(f"{told['node']} ({told['stage']}, {told['state']}, {told['steps']} steps): " + ("" if found else "no findings"))
    for finding in found:
        where = "" if finding.step is None else f", step {finding.step}"
        print_text(f"  {finding.severity:8} {finding.code}{where}\n           {finding.title}\n           Remedy: {finding.remedy}")


def _last_step(rows: Sequence[Any]) -> int:
    return max((int(row["step"]) for row in rows if "step" in row), default=0)
