"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[str, typer.Argument(help="A run's folder, or its name in the store.", metavar="RUN")]
ModelArgument = Annotated[str, typer.Argument(help="A run, a checkpoint or a Hugging Face folder.", metavar="RUN|MODEL")]
NodeOption = Annotated[
    str | None, typer.Option("--model", help="Which model of a run (default: the exported, else the last).", metavar="ID")
]
StoreOption = Annotated[Path, typer.Option("--store", help="The folder that holds artifacts and runs.", metavar="DIR")]
RecipeSetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a setting of the recipe.", metavar="ID.KEY=VALUE")]
StageSetOption = Annotated[list[str] | None, typer.Option("--set", help="A setting of the stage.", metavar="KEY=VALUE")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes for data stages (default: one a core).")]
ClusterOption = Annotated[
    str | None, typer.Option("--cluster", help="Where data stages work: local, ray (started here) or ray:ADDRESS.", metavar="KIND")
]

DEFAULT_STORE = Path("runs")
