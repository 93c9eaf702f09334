"""Multiple choice beyond CORE: MMLU, and the further tasks of DCLM's and llm-foundry's tables."""

from bloomery.evaluate.benchmark import Benchmark, Source
from bloomery.evaluate.tasks import parsers
from bloomery.evaluate.tasks.hub import hub_files


def knowledge_benchmarks() -> list[Benchmark]:
    """MMLU with its 5 examples a subject, and pieces of BIG-bench and Winogender."""
    return [
        Benchmark(
            name="mmlu",
            title="MMLU",
            kind="choice",
            source=Source(files=("mmlu/test", "mmlu"), hub=hub_files("mmlu")),
            shots=Source(files=("mmlu/dev_5shot", "mmlu/dev", "mmlu_dev"), hub=hub_files("mmlu_dev")),
            parse=parsers.mmlu_row,
            introduction=mmlu_introduction,
            metric="accuracy",
            num_shots=5,
            shot_choice="first",
            chance=0.25,
            groups=("knowledge",),
        ),
        _piece("bigbench_strategy_qa", "StrategyQA (BIG-bench)", 10, 0.5),
        _piece("bigbench_understanding_fables", "understanding fables (BIG-bench)", 10, 0.25),
        _piece("winogender_mc_female", "Winogender, female", 10, 0.5, groups=("bias",)),
        _piece("winogender_mc_male", "Winogender, male", 10, 0.5, groups=("bias",)),
        Benchmark(
            name="simple_arithmetic",
            title="simple arithmetic",
            kind="completion",
            source=Source(files=("extra/simple_arithmetic_withspaces", "simple_arithmetic_withspaces")),
            parse=parsers.completion_row,
            metric="accuracy",
            num_shots=10,
            delimiter="",
            groups=("math",),
        ),
    ]


def mmlu_introduction(subject: str) -> str:
    """The line before the examples of a subject (Hendrycks et al., arXiv:2009.03300)."""
    return f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"


def _piece(name: str, title: str, num_shots: int, chance: float, *, groups: tuple[str, ...] = ("knowledge",)) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        kind="choice",
        source=Source(files=(f"extra/{name}", name)),
        parse=parsers.choice_row,
        metric="accuracy_per_token",
        num_shots=num_shots,
        chance=chance,
        groups=groups,
    )
