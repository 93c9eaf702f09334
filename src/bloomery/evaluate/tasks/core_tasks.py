"""CORE: the 22 tasks of DCLM (arXiv:2406.11794, sec. 3.3; eval/eval_meta_data.csv and low_variance_datasets in its repository).

A task's accuracy is centred, (accuracy - chance) / (1 - chance), and CORE is the mean over all 22. DCLM's table of chance
levels has changed since the paper: for three tasks the two versions differ, so that the same accuracies give another
CORE. Both are computed, and the version stands beside every figure.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple  # Any: a JSON record

from bloomery.evaluate.benchmark import Benchmark, Example, Row, Source
from bloomery.evaluate.tasks import parsers
from bloomery.evaluate.tasks.hub import hub_files

Baselines = Literal["v2", "v1"]


class CoreTask(NamedTuple):
    """One of the 22: its kind, examples shown, rows, chance in percent (v2; v1 if it was another), and what stands before an answer."""

    name: str
    kind: Literal["choice", "schema", "completion"]
    num_shots: int
    num_rows: int
    chance: float
    delimiter: str = " "
    chance_v1: float | None = None
    file: str = ""


ANSWER = "\nAnswer: "

CORE_TASKS = (
    ("hellaswag_zeroshot", "choice", 0, 10042, 25.0, " ", None, "hellaswag"),
    ("jeopardy", "completion", 10, 2117, 0.0, ANSWER, None, "jeopardy_all"),
    ("bigbench_qa_wikidata", "completion", 10, 20321, 0.0),
    ("arc_easy", "choice", 10, 2376, 25.0, ANSWER),
    ("arc_challenge", "choice", 10, 1172, 25.0, ANSWER),
    ("copa", "choice", 0, 100, 50.0),
    ("commonsense_qa", "choice", 10, 1221, 40.3, " ", 20.0),
    ("piqa", "choice", 10, 1838, 50.0, ANSWER),
    ("openbook_qa", "choice", 0, 500, 25.0),
    ("lambada_openai", "completion", 0, 5153, 0.0),
    ("hellaswag", "choice", 10, 10042, 25.0),
    ("winograd", "schema", 0, 273, 50.0, " ", None, "winograd_wsc"),
    ("winogrande", "schema", 0, 1267, 50.0),
    ("bigbench_dyck_languages", "completion", 10, 1000, 0.0),
    ("agi_eval_lsat_ar", "choice", 3, 230, 25.0, " ", 20.0),
    ("bigbench_cs_algorithms", "completion", 10, 1320, 0.0),
    ("bigbench_operators", "completion", 10, 210, 0.0),
    ("bigbench_repeat_copy_logic", "completion", 10, 32, 0.0),
    ("squad", "completion", 10, 10570, 0.0, " ", None, "squad_xquad_en"),
    ("coqa", "completion", 0, 7983, 0.0),
    ("boolq", "choice", 10, 3270, 62.0, ANSWER),
    ("bigbench_language_identification", "choice", 10, 10000, 25.0, " ", 9.1),
)
"""In DCLM's order; fields as in CoreTask. DCLM's table gives arc_challenge the 2,376 rows of arc_easy; its file has 1,172."""

FOLDERS = (
    "core",
    "",
    "eval_data/world_knowledge",
    "eval_data/commonsense_reasoning",
    "eval_data/language_understanding",
    "eval_data/symbolic_problem_solving",
    "eval_data/reading_comprehension",
    "world_knowledge",
    "commonsense_reasoning",
    "language_understanding",
    "symbolic_problem_solving",
    "reading_comprehension",
)
"""Where the file of a task lies in our data, in nanochat's bundle and in llm-foundry's repository."""

TITLES = {
    "hellaswag_zeroshot": "HellaSwag, zero-shot",
    "hellaswag": "HellaSwag",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "copa": "COPA",
    "commonsense_qa": "CommonsenseQA",
    "piqa": "PIQA",
    "openbook_qa": "OpenBookQA",
    "lambada_openai": "LAMBADA (OpenAI's rows)",
    "winograd": "Winograd schemas",
    "winogrande": "WinoGrande",
    "agi_eval_lsat_ar": "AGIEval LSAT-AR",
    "squad": "SQuAD",
    "coqa": "CoQA",
    "boolq": "BoolQ",
    "jeopardy": "Jeopardy",
}

PARSERS: Mapping[str, Callable[[Row], Example]] = {
    "arc_easy": parsers.arc_row,
    "arc_challenge": parsers.arc_row,
    "openbook_qa": parsers.openbook_row,
    "commonsense_qa": parsers.commonsense_row,
    "hellaswag": parsers.hellaswag_row,
    "hellaswag_zeroshot": parsers.hellaswag_row,
    "piqa": parsers.piqa_row,
    "copa": parsers.copa_row,
    "boolq": parsers.boolq_row,
    "squad": parsers.squad_row,
}
OF_KIND: Mapping[str, Callable[[Row], Example]] = {
    "choice": parsers.choice_row,
    "schema": parsers.schema_row,
    "completion": parsers.completion_row,
}
METRICS = {"choice": "accuracy_after_common", "schema": "accuracy_after_common", "completion": "accuracy"}
"""nanochat compares the mean over the tokens after what the choices begin with together; DCLM's own program the mean over all."""


def core_benchmarks() -> list[Benchmark]:
    """The 22 tasks with DCLM's number of examples shown and delimiters."""
    return [core_benchmark(CoreTask(*fields)) for fields in CORE_TASKS]


def core_benchmark(task: CoreTask) -> Benchmark:
    """One of them as a benchmark of the catalog."""
    names = dict.fromkeys([task.file or task.name, task.name.removesuffix("_zeroshot")])
    return Benchmark(
        name=task.name,
        title=TITLES.get(task.name, task.name.removeprefix("bigbench_").replace("_", " ") + " (BIG-bench)"),
        kind=task.kind,
        source=Source(
            files=tuple(f"{folder}/{name}".removeprefix("/") for folder in FOLDERS for name in names),
            hub=hub_files(task.name.removesuffix("_zeroshot")),
        ),
        parse=PARSERS.get(task.name, OF_KIND[task.kind]),
        metric=METRICS[task.kind],
        num_shots=task.num_shots,
        delimiter=task.delimiter,
        chance=task.chance / 100,
        groups=("core",),
    )


def core_score(scores: Mapping[str, Mapping[str, Any]], *, baselines: Baselines, metric: Literal["nanochat", "dclm"]) -> dict[str, Any]:
    """CORE of one model's records by task, or the tasks that are missing: a mean over fewer would be another quantity.

    A task counts only as DCLM asks it: with its number of examples shown. `incomplete` names tasks scored on fewer rows
    than the published ones. `metric` says whose comparison of choices it is.
    """
    centred, missing, incomplete = {}, [], {}
    for task in (CoreTask(*fields) for fields in CORE_TASKS):
        record = scores.get(task.name)
        if record is None or "metrics" not in record or record["num_shots"] != task.num_shots:
            missing.append(task.name)
            continue
        name = "accuracy" if task.kind == "completion" else {"nanochat": "accuracy_after_common", "dclm": "accuracy_per_token"}[metric]
        chance = (task.chance_v1 if baselines == "v1" and task.chance_v1 is not None else task.chance) / 100
        score = record["metrics"][name]
        centred[task.name] = (score["value"] - chance) / (1 - chance)
        if score["count"] != task.num_rows:
            incomplete[task.name] = {"rows": score["count"], "published_rows": task.num_rows}
    return {
        "value": None if missing else sum(centred.values()) / len(CORE_TASKS),
        "centred": centred,
        "missing": missing,
        "incomplete": incomplete,
        "baselines": baselines,
        "metric": metric,
    }
