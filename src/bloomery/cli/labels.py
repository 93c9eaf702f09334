"""The commands `labels create | answers | status | export | annotator | close | open`: campaigns of votes without a browser."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal  # Any: a row of JSON

import typer

from bloomery.cli.display import Debug, Json, print_json, print_table, print_text, session
from bloomery.cli.options import DEFAULT_STORE, StoreOption
from bloomery.cli.web import LABELS_OPTION

if TYPE_CHECKING:
    from bloomery.core.votes import ItemVotes
    from bloomery.web.labels.campaigns import Campaign
    from bloomery.web.labels.database import Database

app = typer.Typer(
    name="labels",
    help="Campaigns in which people compare answers, and their votes as training data. The votes are cast in `bloomery web`, page Arena.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

CampaignArgument = Annotated[str, typer.Argument(help="A campaign's name or key.", metavar="CAMPAIGN")]
LabelsOption = Annotated[str, LABELS_OPTION]
Form = Literal["votes", "pairs", "kto", "rankings", "csv"]


@app.command(
    epilog="Examples:\n\n    bloomery labels create first --model quickstart/sft --model quickstart/dpo --prompts quickstart/skills\n\n"
    "    bloomery labels create mine --model quickstart/sft --samples 2 --prompts prompts.jsonl --overlap 3 --quota 200\n\n"
    "    bloomery labels create ranks --model quickstart/sft --samples 4 --kind ranking --answers-per-item 4 --prompts quickstart/skills"
)
def create(
    name: Annotated[str, typer.Argument(help="What the campaign is called.", metavar="NAME")],
    model: Annotated[
        list[str], typer.Option("--model", help="A model: RUN/ID, a run, or a Hugging Face folder (repeatable).", metavar="MODEL")
    ],
    prompts: Annotated[
        list[str],
        typer.Option(
            "--prompts", help="Conversations: RUN/ID (its held-out rows), an artifact, or a JSONL file (repeatable).", metavar="FROM"
        ),
    ],
    num_prompts: Annotated[int, typer.Option("--num-prompts", min=1, help="At most so many different prompts.")] = 100,
    kind: Annotated[Literal["pair", "ranking"], typer.Option("--kind", help="Two answers, or K in an order.")] = "pair",
    answers_per_item: Annotated[int, typer.Option("--answers-per-item", min=2, help="K of a ranking.")] = 2,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Answers of each model to a prompt.")] = 1,
    overlap: Annotated[int, typer.Option("--overlap", min=1, help="Annotators wanted for each item.")] = 1,
    quota: Annotated[int, typer.Option("--quota", min=0, help="Most votes of one annotator; 0 = no limit.")] = 0,
    rule: Annotated[Literal["uncertain", "uniform"], typer.Option("--rule", help="Which items come first.")] = "uncertain",
    guideline: Annotated[Path | None, typer.Option("--guideline", help="A text file that is shown beside every comparison.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Limit of an answer.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 always takes the likeliest token.")] = 0.7,
    seed: Annotated[int, typer.Option("--seed", help="Of answers, items and orders.")] = 0,
    answer: Annotated[bool, typer.Option("--answer/--no-answer", help="Make the answers now, or later by `labels answers`.")] = True,
    labels: LabelsOption = "",
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a campaign: whose answers to which prompts are compared, by which rules; then the answers."""
    with session(as_json=as_json, debug=debug, on_interrupt="Stopped. `bloomery labels answers` continues."):
        from bloomery.core.config import check_config
        from bloomery.core.errors import ConfigError, DataError
        from bloomery.pipeline.locate import find_checkpoint, find_input
        from bloomery.web.arena.models import name_model
        from bloomery.web.arena.prompts import HELD_OUT, file_prompts
        from bloomery.web.labels.campaigns import CampaignSettings, create_campaign

        given: dict[str, Any] = {"name": name, "kind": kind, "answers_per_item": answers_per_item, "samples": samples, "overlap": overlap}
        given |= {"quota": quota, "rule": rule, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        if guideline is not None:
            try:
                given["guideline"] = guideline.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise DataError(f"--guideline {guideline}: cannot be read: {error}") from error
        settings, mistakes = check_config(CampaignSettings, given)
        if settings is None:
            raise ConfigError("; ".join(f"--{mistake.replace('_', '-', 1)}" for mistake in mistakes))
        paths = [Path(find_input(source, store)) for source in prompts]
        files = [path / HELD_OUT if (path / HELD_OUT).is_file() else path for path in paths]
        asked = file_prompts(files, at_most=num_prompts)
        database = _open(labels, store)
        models = [name_model(one, find_checkpoint(one, store)) for one in model]
        campaign = create_campaign(database, settings, models=models, prompts=asked)
        made = _make_answers(database, campaign, store, as_json=as_json) if answer else 0
        if as_json:
            print_json({"campaign": name, "key": campaign.key, "prompts": len(asked), "answers": made, "labels": database.name})
        else:
            print_text(f"{name}: {len(asked)} prompts, {made} answers. Vote in `bloomery web`, page Arena.")


@app.command(epilog="Example:\n\n    bloomery labels answers first")
def answers(
    campaign: CampaignArgument,
    labels: LabelsOption = "",
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make the answers that a campaign still lacks."""
    with session(as_json=as_json, debug=debug, on_interrupt="Stopped. The same command continues."):
        from bloomery.web.labels.campaigns import count_answers, find_campaign

        database = _open(labels, store)
        found = find_campaign(database, campaign)
        made = _make_answers(database, found, store, as_json=as_json)
        there, wanted = count_answers(database, found)
        if as_json:
            print_json({"campaign": found.settings.name, "made": made, "answers": there, "wanted": wanted})
        else:
            print_text(f"{found.settings.name}: {made} answers made, {there} of {wanted} are there.")


@app.command(
    epilog="Examples:\n\n    bloomery labels status\n\n    bloomery labels status first --json\n\n"
    "    bloomery labels status --labels postgresql://me@host/votes"
)
def status(
    campaign: Annotated[
        str | None, typer.Argument(help="A campaign's name or key; without one all are listed.", metavar="CAMPAIGN")
    ] = None,
    labels: LabelsOption = "",
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """How far campaigns and their annotators have come; of one campaign its ratings and agreement, too."""
    with session(as_json=as_json, debug=debug):
        from bloomery.web.arena.results import agreement_record, ratings_record
        from bloomery.web.labels.campaigns import find_campaign, list_campaigns
        from bloomery.web.labels.reading import read_judgements, read_progress

        database = _open(labels, store)
        found = [find_campaign(database, campaign)] if campaign is not None else list_campaigns(database)
        records = [_status_record(database, one) for one in found]
        if campaign is not None:
            judgements = read_judgements(database, found[0])
            records[0] |= {"results": ratings_record(judgements), "agreement": agreement_record(judgements)}
        if as_json:
            print_json({"labels": database.name, "campaigns": records})
            return
        columns = ["campaign", "kind", "state", "answers", "items", "finished", "votes", "skips", "annotators"]
        rows = [[str(record[column]) for column in columns] for record in records]
        print_table(columns, rows, title=database.name)
        if campaign is not None:
            people = read_progress(database, found[0]).annotators
            lines = [
                [one.name, str(one.votes), str(one.skips), str(one.undone), "-" if one.quota is None else str(one.quota)] for one in people
            ]
            print_table(["annotator", "votes", "skips", "undone", "quota"], lines)
            _show_results(records[0])


@app.command(
    epilog="Examples:\n\n    bloomery labels export first --out labels/first.jsonl\n\n"
    "    bloomery labels export first --out first.csv --format csv\n\n"
    'Then in a recipe: inputs = { init = "sft", labels = "file:labels/*.jsonl" } of reward_model or preference.'
)
def export(
    campaign: CampaignArgument,
    out: Annotated[Path, typer.Option("--out", help="The file to write; .gz compresses JSON lines.", metavar="FILE")],
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="votes: for the input `labels`; pairs, kto, rankings: TRL's columns, by majority; csv: a row a vote.",
            show_default=True,
        ),
    ] = "votes",
    labels: LabelsOption = "",
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a campaign's votes to a file: what counts, without undone votes, skips, and votes cast after the names were shown."""
    with session(as_json=as_json, debug=debug):
        from bloomery.core.errors import DataError
        from bloomery.core.files import write_jsonl, write_text
        from bloomery.web.labels.campaigns import find_campaign
        from bloomery.web.labels.export import vote_table
        from bloomery.web.labels.reading import export_items

        database = _open(labels, store)
        found = find_campaign(database, campaign)
        items = list(export_items(database, found))
        if not items:
            raise DataError(f"{found.settings.name}: nobody has voted yet, so there is nothing to export")
        if form == "csv":
            write_text(out, "".join(vote_table(items)))
            count = sum(len(item.votes) for item in items)
        else:
            count = write_jsonl(out, _rows(items, form))
        if as_json:
            print_json({"path": str(out), "format": form, "items": len(items), "rows": count})
        else:
            print_text(f"{out}: {count} rows of {len(items)} items.")


@app.command(epilog="Example:\n\n    bloomery labels annotator ann --quota 500")
def annotator(
    name: Annotated[str, typer.Argument(help="As the annotator typed it.", metavar="NAME")],
    quota: Annotated[int, typer.Option("--quota", min=-1, help="Most votes in a campaign; 0 = no limit, -1 = what each campaign says.")],
    labels: LabelsOption = "",
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Give an annotator a quota of their own."""
    with session(as_json=as_json, debug=debug):
        from bloomery.web.labels.voting import set_quota

        set_quota(_open(labels, store), name, None if quota < 0 else quota)
        if as_json:
            print_json({"annotator": name, "quota": None if quota < 0 else quota})


@app.command(name="close", epilog="Examples:\n\n    bloomery labels close first\n\n    bloomery labels close first --reopen")
def close_campaign(
    campaign: CampaignArgument,
    reopen: Annotated[bool, typer.Option("--reopen", help="Take votes again.")] = False,
    labels: LabelsOption = "",
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Take no more votes in a campaign."""
    with session(as_json=as_json, debug=debug):
        from bloomery.web.labels.campaigns import set_open

        set_open(_open(labels, store), campaign, is_open=reopen)
        if as_json:
            print_json({"campaign": campaign, "is_open": reopen})


def _open(labels: str, store: Path) -> "Database":
    from bloomery.core.errors import ConfigError

    try:
        from bloomery.web.labels.database import open_database
    except ModuleNotFoundError as error:
        raise ConfigError(f"votes need {error.name}: pip install 'bloomery[web]'") from error
    from bloomery.web.labels.location import default_labels

    return open_database(labels or default_labels(store))


def _make_answers(database: "Database", campaign: "Campaign", store: Path, *, as_json: bool) -> int:
    from bloomery.core.artifact import Store
    from bloomery.core.metrics import progress
    from bloomery.pipeline.locate import find_checkpoint
    from bloomery.web.arena.answering import make_answers
    from bloomery.web.arena.models import find_folder, name_model
    from bloomery.web.directory import Directory
    from bloomery.web.labels.campaigns import ModelName, count_answers

    directory = Directory(Store(store))

    def folder_of(model: ModelName) -> Path:
        from bloomery.core.errors import DataError

        try:
            folder = find_checkpoint(model.name, store)
            if name_model(model.name, folder) == model:
                return folder
        except DataError:
            pass
        return find_folder(directory, model)

    made, wanted = count_answers(database, campaign)
    with progress(campaign.settings.name, total=wanted - made, unit="answers", quiet=as_json) as bar:
        return make_answers(database, campaign, folder_of=folder_of, told=bar.advance)


def _rows(items: Iterable["ItemVotes"], form: str) -> Iterable[dict[str, Any]]:
    from bloomery.align.preference_rows import as_columns
    from bloomery.align.votes import labels_of_votes, pairs_of_votes, rankings_of_votes

    if form == "votes":
        return (item.record() for item in items)
    if form == "pairs":
        return map(as_columns, pairs_of_votes(items, votes="majority", ties="left_out"))
    if form == "kto":
        return map(as_columns, labels_of_votes(items, both_bad="undesirable"))
    return map(as_columns, rankings_of_votes(items, votes="majority"))


def _status_record(database: "Database", campaign: "Campaign") -> dict[str, Any]:
    from bloomery.web.labels.campaigns import count_answers
    from bloomery.web.labels.reading import read_progress

    made, wanted = count_answers(database, campaign)
    progress = read_progress(database, campaign)
    return {
        "campaign": campaign.settings.name,
        "key": campaign.key,
        "kind": campaign.settings.kind,
        "state": "open" if campaign.is_open else "closed",
        "answers": f"{made} of {wanted}",
        "models": [model.name for model in campaign.models],
        "prompts": progress.prompts,
        "items": progress.items,
        "identical": progress.identical,
        "finished": progress.finished,
        "votes": progress.votes,
        "skips": progress.skips,
        "annotators": len(progress.annotators),
    }


def _show_results(record: dict[str, Any]) -> None:
    results, alpha = record["results"], record["agreement"]["krippendorff_alpha"]
    if results["missing"]:
        print_text(results["missing"])
    if results["ratings"] is not None:
        rows = [
            [
                one["name"],
                f"{one['rating']['value']:.0f}",
                f"{one['rating']['low']:.0f} to {one['rating']['high']:.0f}",
                str(one["wins"]),
                str(one["ties"]),
                str(one["losses"]),
            ]
            for one in results["ratings"]["standings"]
        ]
        print_table(["model", "Bradley-Terry", "95 % interval", "won", "tied", "lost"], rows, title="prior: one tie of every two models")
    if alpha["value"] is not None:
        print_text(f"Krippendorff's alpha (nominal): {alpha['value']:.2f} over {alpha['items']} items that several judged")
