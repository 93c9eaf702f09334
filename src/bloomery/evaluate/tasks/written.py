"""Benchmarks whose answers are written by the model: mathematics, questions with short answers, instructions to follow."""

from bloomery.evaluate.benchmark import Benchmark, Generation, Source
from bloomery.evaluate.tasks import answers, parsers
from bloomery.evaluate.tasks.hub import hub_files
from bloomery.evaluate.tasks.instructions import score_instructions

QUESTION_STOPS = ("\nQuestion:", "\n\nQuestion")
LINE_STOPS = ("\n",)


def written_benchmarks() -> list[Benchmark]:
    """GSM8K, MATH, AQuA, BIG-Bench Hard, TriviaQA, SQuAD and Jeopardy with generated answers, IFEval."""
    number = Generation(score=answers.score_number, max_tokens=256, stop=QUESTION_STOPS)
    formula = Generation(score=answers.score_formula, max_tokens=512, stop=("\nProblem:",))
    short = Generation(score=answers.score_short_answer, max_tokens=32, stop=LINE_STOPS)
    return [
        Benchmark(
            name="gsm8k",
            title="GSM8K",
            kind="question",
            source=Source(files=("gsm8k/test", "gsm8k"), hub=hub_files("gsm8k")),
            parse=parsers.gsm8k_row,
            metric="exact_match",
            num_shots=5,
            generation=number,
            groups=("math",),
        ),
        Benchmark(
            name="math",
            title="MATH",
            kind="question",
            source=Source(files=("extra/math", "math/test", "math"), hub=hub_files("math")),
            parse=parsers.math_row,
            metric="exact_match",
            num_shots=4,
            generation=formula,
            groups=("math",),
        ),
        Benchmark(
            name="aqua",
            title="AQuA-RAT",
            kind="question",
            source=Source(files=("extra/aqua", "aqua")),
            parse=parsers.aqua_row,
            metric="exact_match",
            num_shots=3,
            generation=Generation(score=answers.score_formula, max_tokens=256, stop=QUESTION_STOPS),
            groups=("math",),
        ),
        Benchmark(
            name="bbh",
            title="BIG-Bench Hard, answers only",
            kind="question",
            source=Source(files=("extra/bbh", "bbh")),
            parse=parsers.bbh_row,
            metric="exact_match",
            num_shots=3,
            shot_choice="drawn_in_group",
            generation=Generation(score=answers.score_short_answer, max_tokens=32, stop=("\n",)),
            groups=("reasoning",),
        ),
        Benchmark(
            name="triviaqa",
            title="TriviaQA, 3,000 rows",
            kind="question",
            source=Source(files=("extra/triviaqa_sm_sub", "triviaqa_sm_sub")),
            parse=parsers.trivia_row,
            metric="exact_match",
            num_shots=3,
            generation=short,
            groups=("knowledge",),
        ),
        _spans("squad_f1", "SQuAD, generated", ("core/squad_xquad_en", "squad"), "squad", num_shots=3),
        _spans("coqa_f1", "CoQA, generated", ("core/coqa", "coqa"), "", num_shots=0),
        _spans("jeopardy_f1", "Jeopardy, generated", ("core/jeopardy", "jeopardy_all"), "", num_shots=10, delimiter="\nAnswer: "),
        Benchmark(
            name="ifeval",
            title="IFEval",
            kind="question",
            source=Source(files=("ifeval/ifeval_input_data", "ifeval_input_data", "ifeval"), hub=hub_files("ifeval")),
            parse=parsers.instruction_row,
            metric="prompt_strict",
            chat=True,
            generation=Generation(score=score_instructions, max_tokens=1024),
            groups=("instructions",),
        ),
    ]


def _spans(name: str, title: str, files: tuple[str, ...], hub: str, *, num_shots: int, delimiter: str = " ") -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        kind="question",
        source=Source(files=files, hub=hub_files(hub)),
        parse=parsers.span_row,
        metric="f1",
        num_shots=num_shots,
        delimiter=delimiter,
        generation=Generation(score=answers.score_short_answer, max_tokens=32, stop=LINE_STOPS),
        groups=("reading",),
    )
