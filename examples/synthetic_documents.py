"""Documents that a checkpoint writes about a few topics, without a recipe.

    python examples/synthetic_documents.py runs/smoke/sft my_documents

A model behind an address instead: `runtime = Runtime(launch=Launch(endpoint=Endpoint(url="http://HOST:8000/v1")))` with
`SynthesizeDocumentsConfig(model="its name there", ...)` and no `model=` folder.
"""

import sys
from pathlib import Path

from bloomery.core.documents import read_documents
from bloomery.core.files import read_json
from bloomery.core.stage import Runtime
from bloomery.stages.synthesize_documents import SynthesizeDocumentsConfig, synthesize_documents

TOPICS = ["how a furnace turns ore into iron", "why the tides come twice a day"]


def main(model: Path, out: Path) -> None:
    """Asks for eight documents, and shows what stayed, what went and how diverse they are."""
    config = SynthesizeDocumentsConfig(topics=TOPICS, styles=["story", "textbook"], num_documents=8, max_tokens=96, rules=[])
    metrics = synthesize_documents(config, model=model, out=out, runtime=Runtime.local(out))
    for row in read_documents(out / "00000.parquet").to_pylist():
        print(f"{row['meta']}\n  {row['text'][:200]!r}")
    print({name: value for name, value in metrics.items() if name.startswith(("documents", "dropped"))})
    print("different words / words:", read_json(out / "report.json")["documents"]["distinct"]["1"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
