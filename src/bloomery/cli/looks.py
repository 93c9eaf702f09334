"""`bloomery inspect`: a look into a run, one artifact, one document, and what curation did to all of them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any  # Any: rows of Parquet and JSON

import typer

from bloomery.cli import models
from bloomery.cli.display import Debug, Json, format_bytes, print_json, print_table, print_text, session

if TYPE_CHECKING:
    from bloomery.curate.explore import Piece
    from bloomery.pipeline.inspect import WhatIf

DEFAULT_STORE = Path("runs")

INSPECT_EXAMPLES = """Examples:

    bloomery inspect quickstart

    bloomery inspect quickstart/filtered --dropped too_few_words --rows 5

    bloomery inspect quickstart --id https://example.org/page

    bloomery inspect quickstart/filtered --what-if too_few_words=40 --what-if short_words=2.5

    bloomery inspect quickstart/filtered --histogram mean_word_characters

    bloomery inspect quickstart/unique --clusters
"""


def inspect(
    target: Annotated[str, typer.Argument(help="A run, an artifact's folder, or RUN/ID.", metavar="RUN|PATH")],
    document_id: Annotated[
        str | None,
        typer.Option("--id", "--why", help="One document's whole story in a run (an id, its start, or a URL).", metavar="DOC"),
    ] = None,
    dropped: Annotated[
        str | None, typer.Option("--dropped", help="Random documents that a rule dropped (or `all`).", metavar="RULE")
    ] = None,
    kept: Annotated[bool, typer.Option("--kept", help="Random documents that stayed.")] = False,
    near: Annotated[str | None, typer.Option("--near", help="Documents on both sides of a rule's threshold.", metavar="RULE")] = None,
    histogram: Annotated[str | None, typer.Option("--histogram", help="How a signal is distributed.", metavar="SIGNAL")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--what-if", help="The funnel with another threshold; repeat it for more.", metavar="RULE=VALUE")
    ] = None,
    clusters: Annotated[bool, typer.Option("--clusters", help="The largest groups of duplicates, and how their texts differ.")] = False,
    by: Annotated[str | None, typer.Option("--by", help="Documents and bytes by language, source or domain.", metavar="COLUMN")] = None,
    bias: Annotated[bool, typer.Option("--bias", help="Who appears with what in the texts.")] = False,
    num_rows: Annotated[int, typer.Option("--rows", min=0, help="Rows, documents or groups to show.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Of random samples: another one draws others.")] = 0,
    store: Annotated[Path, typer.Option("--store", help="The folder that holds artifacts and runs.", metavar="DIR")] = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look into a run or an artifact: what is in it, what was dropped and why, and what other thresholds would do."""
    with session(as_json=as_json, debug=debug):
        from bloomery.core.errors import ConfigError
        from bloomery.pipeline.inspect import describe_artifact, list_near, tell_story, try_thresholds
        from bloomery.pipeline.locate import find_artifact, find_run, finished_nodes

        run_folder = find_run(target, store)
        if document_id is not None:
            if run_folder is None:
                raise ConfigError(f"--id needs a run; {target} is not one")
            show_story(tell_story(run_folder, document_id), as_json=as_json)
            return
        options = {"--dropped": dropped, "--kept": kept, "--near": near, "--histogram": histogram, "--what-if": changes}
        options |= {"--clusters": clusters, "--by": by, "--bias": bias}
        looks = [name for name, value in options.items() if value]
        if not looks:
            if run_folder is not None:
                nodes = {node_id: describe_artifact(path, num_rows=0) for node_id, path in finished_nodes(run_folder).items()}
                models.show_nodes(str(run_folder), nodes, as_json=as_json)
            else:
                models.show_description(describe_artifact(find_artifact(target, store), num_rows=num_rows), as_json=as_json)
            return
        if len(looks) > 1:
            raise ConfigError(f"{' and '.join(looks)}: one look at a time")
        if run_folder is not None:
            raise ConfigError(f"{looks[0]} looks into one artifact; name it {target}/ID, with an ID of `bloomery inspect {target}`")
        path = find_artifact(target, store)
        if changes:
            show_what_if(try_thresholds(path, _parse_changes(changes)), as_json=as_json)
        elif near is not None:
            show_near(list_near(path, near, num_documents=2 * num_rows), as_json=as_json)
        elif histogram is not None:
            show_histogram(path, histogram, as_json=as_json)
        elif clusters:
            show_clusters(path, _run_of(target, store), num_clusters=num_rows, as_json=as_json)
        elif by is not None:
            show_counts(path, by, top=max(num_rows, 20), as_json=as_json)
        elif bias:
            show_bias(path, top=max(num_rows, 20), as_json=as_json)
        else:
            show_samples(path, rule=dropped, num_documents=num_rows, seed=seed, as_json=as_json)


def show_story(story: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """What became of one document, stage by stage, every rule with its value and threshold."""
    if as_json:
        print_json({"story": list(story)})
        return
    for event in story:
        plain = {key: value for key, value in event.items() if key != "rules"}
        models.show_story([plain], as_json=False)
        if "rules" in event:
            rows = [
                [r["rule"], _number(r["value"]), f"{r['drops']} {_number(r['threshold'])}", "broken" if r["broken"] else ""]
                for r in event["rules"]
            ]
            print_table(["rule", "value", "drops", ""], rows)


def show_what_if(result: "WhatIf", *, as_json: bool) -> None:
    """Both funnels side by side."""
    if as_json:
        print_json(result._asdict())
        return
    rules = [*result.dropped_before, *(rule for rule in result.dropped_after if rule not in result.dropped_before)]
    rows = [["documents", f"{result.documents:,}", f"{result.documents:,}", ""]]
    rows += [[rule, *_change(result.dropped_before.get(rule, 0), result.dropped_after.get(rule, 0))] for rule in rules]
    rows += [["kept", *_change(result.kept_before, result.kept_after)]]
    print_table(["dropped by (first rule broken)", "now", "then", "change"], rows)
    for name, ids in (("would stay", result.gained), ("would go", result.lost)):
        if ids:
            print_text(f"{name}: {', '.join(ids[:5])}{' ...' if len(ids) > 5 else ''}")


def show_near(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Documents on both sides of a threshold."""
    if as_json:
        print_json({"documents": list(rows)})
        return
    if rows:
        table = [[_number(row["value"]), row["rule"] or "kept", row["id"], row["url"] or ""] for row in rows]
        print_table([rows[0]["signal"], "dropped by", "id", "url"], table, title=f"threshold {_number(rows[0]['threshold'])}")


def show_histogram(path: Path, signal: str, *, as_json: bool) -> None:
    """The distribution of one signal."""
    from bloomery.curate.explore import histogram_lines, make_histogram

    histogram = make_histogram(path, signal)
    if as_json:
        print_json(histogram._asdict())
        return
    print_text(f"{signal}: from, documents (# kept, . dropped; the last bin holds all that is larger)")
    for line in histogram_lines(histogram):
        print_text(line)
    print_text("quantiles: " + ", ".join(f"{name} {_number(value)}" for name, value in histogram.quantiles.items()))


def show_clusters(path: Path, run: Path | None, *, num_clusters: int, as_json: bool) -> None:
    """The largest groups of duplicates; where the texts are still there, how the nearest twin differs."""
    from bloomery.curate.explore import compare_texts, find_documents, largest_clusters
    from bloomery.pipeline.inspect import input_folders

    found = largest_clusters(path, num_clusters=num_clusters)
    if as_json:
        print_json({"clusters": found})
        return
    if not found:
        print_text("no duplicates were found")
    for cluster in found:
        ids = [cluster["kept"], *(member["id"] for member in cluster["members"][:5])]
        rows = find_documents([path, *input_folders(path, run)], ids)
        print_text(f"\n{cluster['size']} documents; {cluster['kept']} stays: {rows.get(cluster['kept'], {}).get('url') or ''}")
        for member in cluster["members"][:5]:
            print_text(f"  {_number(member['similarity'])}  {member['id']}  {rows.get(member['id'], {}).get('url') or ''}")
        different = [m["id"] for m in cluster["members"] if m["id"] in rows and rows[m["id"]]["text"] != rows[cluster["kept"]]["text"]]
        if different and cluster["kept"] in rows:
            pieces = compare_texts(rows[cluster["kept"]]["text"], rows[different[0]]["text"])
            print_text(f"  against {different[0]}: {_differences(pieces)}")


def show_samples(path: Path, *, rule: str | None, num_documents: int, seed: int, as_json: bool) -> None:
    """Random documents: dropped by a rule ("all" for any), or kept (None)."""
    from bloomery.curate.explore import sample_dropped, sample_kept

    if rule is None:
        rows = sample_kept(path, num_documents=num_documents, seed=seed)
    else:
        rows = sample_dropped(path, rule=None if rule == "all" else rule, num_documents=num_documents, seed=seed)
    if as_json:
        print_json({"documents": rows})
        return
    for row in rows:
        models.show_story(
            [{"node": row.get("rule") or "kept", "what": row["id"], **{k: v for k, v in row.items() if k not in ("id", "rule")}}],
            as_json=False,
        )


def show_counts(path: Path, by: str, *, top: int, as_json: bool) -> None:
    """Documents and bytes by one column."""
    from bloomery.core.config import suggest
    from bloomery.core.errors import ConfigError
    from bloomery.curate.explore import count_by

    if by not in ("language", "source", "domain"):
        raise ConfigError(f"--by {by}: {suggest(by, ('language', 'source', 'domain'))}")
    rows = count_by(path, by).rows.head(top).to_dicts()  # type: ignore[arg-type]  # checked above
    if as_json:
        print_json({"by": by, "rows": rows})
        return
    print_table(
        [by, "documents", "text"], [[row["name"] or "(none)", f"{row['documents']:,}", format_bytes(int(row["bytes"]))] for row in rows]
    )


def show_bias(path: Path, *, top: int, as_json: bool) -> None:
    """Groups of people and what they appear with, far from chance in either direction."""
    from bloomery.curate.bias import BiasConfig, add_counts, count_cooccurrences, measure_bias
    from bloomery.curate.explore import read_texts

    config = BiasConfig()
    found = measure_bias(add_counts(count_cooccurrences(texts, config) for texts in read_texts(path)), config)
    if as_json:
        print_json({"window_words": config.window_words, "pairs": [row._asdict() for row in found]})
        return
    shown = found if len(found) <= top else [*found[: (top + 1) // 2], *found[-(top // 2) :]]
    rows = [
        [
            row.identity,
            row.attribute,
            f"{row.pairs:,}",
            _number(row.expected),
            f"{row.pmi:+.2f}",
            f"{row.low:+.2f} to {row.high:+.2f}",
        ]
        for row in shown
    ]
    title = f"within {config.window_words} words of one another; log2 of what was found over what chance gives, 95 % interval"
    print_table(["who", "with what", "found", "by chance", "log2", "interval"], rows, title=title)


def _parse_changes(changes: Sequence[str]) -> dict[str, float]:
    from bloomery.core.errors import ConfigError

    thresholds = {}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            thresholds[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"--what-if {change}: expected RULE=NUMBER, such as too_few_words=40") from error
    return thresholds


def _run_of(target: str, store: Path) -> Path | None:
    from bloomery.pipeline.locate import find_run

    return find_run(str(Path(target).parent), store)


def _change(before: int, after: int) -> list[str]:
    return [f"{before:,}", f"{after:,}", f"{after - before:+,}" if after != before else ""]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _differences(pieces: "Sequence[Piece]", *, shown: int = 6) -> str:
    # What is in one text only, with a few words around it: [-gone-] {+new+}.
    marks = {"both": ("", ""), "first": ("[-", "-]"), "second": ("{+", "+}")}
    if sys.stdout.isatty():
        marks |= {"first": ("\033[31m[-", "-]\033[0m"), "second": ("\033[32m{+", "+}\033[0m")}
    parts, changes = [], 0
    for piece in pieces:
        words = piece.text.split()
        if piece.where == "both":
            parts.append(" ".join(words) if len(words) <= 8 else f"{' '.join(words[:4])} … {' '.join(words[-4:])}")
        else:
            changes += 1
            cut = " ".join(words[:20]) + (f" … ({len(words)} words)" if len(words) > 20 else "")
            parts.append(f"{marks[piece.where][0]}{cut}{marks[piece.where][1]}")
        if changes >= shown:
            parts.append("…")
            break
    return " ".join(parts)
