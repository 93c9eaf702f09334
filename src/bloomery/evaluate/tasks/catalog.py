"""Every benchmark by name, and the names of collections: what `--tasks` takes and `--list` shows."""

import dataclasses
from collections.abc import Sequence

from bloomery.core.config import suggest
from bloomery.core.errors import ConfigError
from bloomery.evaluate.benchmark import Benchmark
from bloomery.evaluate.tasks import parsers
from bloomery.evaluate.tasks.code import code_benchmarks
from bloomery.evaluate.tasks.core_tasks import core_benchmarks
from bloomery.evaluate.tasks.knowledge import knowledge_benchmarks
from bloomery.evaluate.tasks.probes import probe_benchmarks
from bloomery.evaluate.tasks.written import written_benchmarks

MAX_SAMPLES_IN_ALL = 8
"""Benchmarks that draw more answers to a question are not part of `all`: pass@10 of HumanEval takes twenty times its pass@1."""


def catalog() -> dict[str, Benchmark]:
    """All benchmarks by name; those that a chat can be asked also as NAME_chat."""
    plain = [*core_benchmarks(), *knowledge_benchmarks(), *written_benchmarks(), *code_benchmarks(), *probe_benchmarks()]
    chats = [chat_version(benchmark) for benchmark in plain if _has_chat_version(benchmark)]
    return {benchmark.name: benchmark for benchmark in [*plain, *chats]}


def choose(names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks of these names and collections, each once, in this order. Raises ConfigError for an unknown name."""
    known = catalog()
    chosen: dict[str, Benchmark] = {}
    for name in names:
        members = [benchmark for benchmark in known.values() if name in benchmark.groups]
        if name == "all":
            members = [one for one in known.values() if "chat" not in one.groups and not _draws_many(one)]
        elif name in known:
            members = [known[name]]
        if not members:
            names_known = [*collections(), *known]
            raise ConfigError(f'there is no task "{name}"; {suggest(name, names_known)}. `bloomery evaluate --list` shows all.')
        chosen |= {benchmark.name: benchmark for benchmark in members}
    return list(chosen.values())


def collections() -> list[str]:
    """The names that stand for several benchmarks."""
    return ["all", *dict.fromkeys(group for benchmark in catalog().values() for group in benchmark.groups)]


def chat_version(benchmark: Benchmark) -> Benchmark:
    """The same asked through the chat template: choices listed behind letters, questions as the user's message."""
    if benchmark.kind == "choice":
        parse = benchmark.parse
        return dataclasses.replace(
            benchmark,
            name=f"{benchmark.name}_chat",
            title=f"{benchmark.title}, chat",
            parse=lambda row: parsers.with_choices_listed(parse(row)),
            metric="accuracy",
            num_shots=0,
            shots=None,
            chat=True,
            groups=("chat",),
        )
    return dataclasses.replace(
        benchmark, name=f"{benchmark.name}_chat", title=f"{benchmark.title}, chat", num_shots=0, shots=None, chat=True, groups=("chat",)
    )


def _draws_many(benchmark: Benchmark) -> bool:
    return benchmark.generation is not None and benchmark.generation.num_samples > MAX_SAMPLES_IN_ALL


def _has_chat_version(benchmark: Benchmark) -> bool:
    return (
        not benchmark.chat and benchmark.kind in ("choice", "question") and not benchmark.name.endswith(("_zeroshot", "_pairs", "toxicity"))
    )
