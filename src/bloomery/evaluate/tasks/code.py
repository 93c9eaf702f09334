"""HumanEval and MBPP: programs that a model writes, run against their tests in the sandbox; pass@k.

HumanEval (arXiv:2107.03374) asks to go on with a function after its docstring. MBPP (arXiv:2108.07732) asks in words, shows
the tests, and three solved tasks. A program's tests run apart from it: see generate/sandbox.py.
"""

import ast
import os
import re
import sys
from collections.abc import Mapping, Sequence

from bloomery.evaluate.benchmark import Benchmark, Completion, Generation, Question, Row, RowError, Source, require_text
from bloomery.evaluate.tasks.hub import hub_files
from bloomery.generate.sandbox import Program, SandboxLimits, check_sandbox, judge_programs

HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a completion ends (2107.03374, sec. 3)."""
MBPP_STOPS = ("[DONE]", "\nYou are an expert")
MBPP_PROMPT = "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{tests}\n[BEGIN]"
MBPP_SHOWN, MBPP_ASKED = range(2, 5), range(11, 511)
"""Task ids: three of the ten that are for prompts, and those for testing (2108.07732, sec. 2.1)."""
NUM_SAMPLES, TEMPERATURE = 20, 0.8
"""For pass@10, where 2107.03374 draws 200 samples at 0.8: pass@k is unbiased for any number of at least k."""
_FENCE = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


def code_benchmarks() -> list[Benchmark]:
    """HumanEval and MBPP, greedy (pass@1) and with samples (pass@1 and pass@10), and how likely HumanEval's own solutions are."""
    found = []
    for suffix, title, samples, temperature in (("", "", 1, 0.0), ("_pass10", ", 20 samples", NUM_SAMPLES, TEMPERATURE)):
        generation = Generation(
            score=score_one, at_once=score_programs, check=check_sandbox, max_tokens=512, num_samples=samples, temperature=temperature
        )
        humaneval = Benchmark(
            name=f"humaneval{suffix}",
            title=f"HumanEval{title}",
            kind="question",
            source=Source(files=("humaneval/HumanEval", "HumanEval", "humaneval"), hub=hub_files("humaneval")),
            parse=humaneval_row,
            metric="pass_at_10" if suffix else "pass_at_1",
            delimiter="",
            generation=generation,
            groups=("code",),
        )
        mbpp = Benchmark(
            name=f"mbpp{suffix}",
            title=f"MBPP{title}",
            kind="question",
            source=Source(files=("mbpp/mbpp", "mbpp/sanitized-mbpp", "mbpp", "sanitized-mbpp"), hub=hub_files("mbpp"), keep=_is_asked),
            parse=mbpp_row,
            metric="pass_at_10" if suffix else "pass_at_1",
            num_shots=3,
            shots=Source(
                files=("mbpp/prompt", "mbpp/mbpp", "mbpp/sanitized-mbpp", "mbpp", "sanitized-mbpp"),
                hub=hub_files("mbpp_prompt"),
                keep=_is_shown,
            ),
            shot_choice="first",
            delimiter="\n",
            generation=generation,
            groups=("code",),
        )
        found += [humaneval, mbpp]
    solutions = Benchmark(
        name="humaneval_solution",
        title="HumanEval, the given solutions",
        kind="completion",
        source=found[0].source,
        parse=solution_row,
        metric="gold_bits_per_byte",
        delimiter="",
        groups=("code",),
    )
    return [*found, solutions]


def humaneval_row(row: Row) -> Question:
    """A row of HumanEval.jsonl."""
    prompt, tests = require_text(row, "prompt"), require_text(row, "test")
    entry = require_text(row, "entry_point")
    for name, code in (("prompt", prompt), ("test", tests)):
        _check_parses(name, code)
    if f"def {entry}" not in prompt:
        raise RowError(f'entry_point is "{entry}", which "prompt" does not define')
    solution = row.get("canonical_solution") or ""
    return Question(prompt=prompt, answers=(solution,), worked=solution, row=row)


def solution_row(row: Row) -> Completion:
    """A row of HumanEval.jsonl as a text to be predicted, for models that solve none: the given solution after its prompt."""
    return Completion(require_text(row, "prompt").rstrip(), "\n" + require_text(row, "canonical_solution").rstrip())


def mbpp_row(row: Row) -> Question:
    """A row of mbpp.jsonl, or of sanitized-mbpp.json, which calls the task `prompt` and the imports of its tests `test_imports`."""
    text = require_text(row, "text" if "text" in row else "prompt").strip()
    code = require_text(row, "code").replace("\r\n", "\n").strip()
    tests = row.get("test_list")
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests or not all(isinstance(test, str) for test in tests):
        raise RowError(f"expected a list of tests in test_list, found {tests!r:.80}")
    for name, some in (("code", code), ("test_list", "\n".join(tests)), ("tests' setup", _setup(row))):
        _check_parses(name, some)
    prompt = MBPP_PROMPT.format(text=text, tests="\n".join(tests))
    return Question(prompt=prompt, answers=(code,), worked=f"{code}\n[DONE]", row=row)


def score_programs(questions: Sequence[Question], completions: Sequence[Sequence[str]]) -> list[Mapping[str, float]]:
    """pass@1, and pass@10 where there are so many, of each question's completions. Raises ConfigError where no sandbox can be had."""
    programs = [program_of(question, text) for question, texts in zip(questions, completions, strict=True) for text in texts]
    workers = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    judged = iter(judge_programs(programs, SandboxLimits(), workers=workers))
    found: list[Mapping[str, float]] = []
    for texts in completions:
        passed = sum(next(judged).passed for _ in texts)
        found.append({f"pass_at_{k}": pass_at_k(len(texts), passed, k) for k in (1, 10) if k <= len(texts)})
    return found


def score_one(question: Question, completions: Sequence[str]) -> Mapping[str, float]:
    """The same for one question."""
    return score_programs([question], [completions])[0]


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """The chance that one of k samples passes, unbiased from n >= k of which c did: 1 - C(n-c, k) / C(n, k) (2107.03374, eq. 1).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 0 < k <= num_samples or not 0 <= num_passed <= num_samples:
        raise ValueError(f"pass@{k} of {num_passed} out of {num_samples}: expected 0 < k <= samples and no more passed than drawn")
    fails = 1.0
    for i in range(num_samples - num_passed + 1, num_samples + 1):
        fails *= max(0.0, 1.0 - k / i)
    return 1.0 - fails


def program_of(question: Question, completion: str) -> Program:
    """The program of a completion, and the tests of its row.

    A completion is code to go on with, or an answer with code between ``` fences, or with the whole function in it.
    """
    row, fenced = question.row, _FENCE.search(completion)
    code = fenced.group(1) if fenced else completion
    if "entry_point" not in row:
        return Program(
            source=cut_code(code, MBPP_STOPS), setup=_setup(row), tests="\n".join(row["test_list"]), functions=_defined(row["code"])
        )
    entry, prompt = str(row["entry_point"]), str(row["prompt"])
    if re.search(rf"^def {re.escape(entry)}\b", code, re.MULTILINE):
        source = f"{prompt}\n\n{code if fenced else cut_code(code, ('```',))}"  # the prompt's imports and helpers; its stub is replaced
    else:
        # A prompt is asked without the line's end that it ends in, so the completion begins with it.
        body = code if code.startswith(("\n", "\r")) else f"\n{code}"
        source = prompt.rstrip() + (body if fenced else cut_code(body, HUMANEVAL_STOPS))
    return Program(source=source, setup=prompt, tests=f"{row['test']}\ncheck({entry})", functions=(entry,))


def cut_code(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of `stops`; unlike in prose, blanks before it stay: they are Python's.

    >>> cut_code("\\n    return 1\\ndef g(): pass", ["\\ndef"])
    '\\n    return 1'
    """
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def _is_shown(row: Row) -> bool:
    return row.get("task_id") in MBPP_SHOWN


def _is_asked(row: Row) -> bool:
    return row.get("task_id") in MBPP_ASKED


def _setup(row: Row) -> str:
    return "\n".join([*(row.get("test_imports") or []), str(row.get("test_setup_code") or "")])


def _defined(code: str) -> tuple[str, ...]:
    # Tests call what the reference solution defines, whatever Python calls by the same name.
    return tuple(node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef))


def _check_parses(name: str, code: str) -> None:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise RowError(f"{name} is not Python: {error}") from error
