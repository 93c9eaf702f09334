"""Questions whose answers stand in the documents: what a documented function does, takes, and where it is defined.

Reads the text of Python's own documentation pages (`pydoc`, as `crawl` renders and `extract` writes them): under the
headings "Classes" and "Functions" a line `name(parameters)` is followed by its docstring. Any other page gives no
questions. The answer is always a short piece of the page, so that a model that read the page can know it.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

SKILL = "documentation"
FORMAT = r"[^\n]+"

MAX_PARAMETERS = 6
MIN_ANSWER_CHARACTERS, MAX_ANSWER_CHARACTERS = 12, 160

_PHRASINGS_PURPOSE = ("What does `{path}` do?", "Describe `{path}` in one sentence.")
_PHRASINGS_PARAMETERS = ("What are the parameters of `{path}`?", "Which arguments does `{path}` take?")
_PHRASINGS_MODULE = ("Which module defines `{name}`?", "Where is `{name}` defined?")

_HEADINGS = frozenset({"Modules", "Classes", "Functions", "Data", "Author", "Credits", "Version", "Package Contents", "Submodules"})
_SIGNATURE = re.compile(r"(?:(?P<alias>\w+) = )?(?P<name>[A-Za-z]\w*)\((?P<parameters>.*)\)(?: ?-> ?.{1,60})?")
_CLASS = re.compile(r"class (?P<name>[A-Za-z]\w*)(?:\(.*\))?")
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\beg)(?<!\bie)(?<!\betc)(?<!\bvs)\.(?=\s+[A-Z`'\"]|$)")
_PARAMETER = re.compile(r"\*{0,2}[A-Za-z]\w*")


class Definition(NamedTuple):
    """A documented name. `parameters` is None where the signature is unknown or not a plain list of names."""

    module: str
    name: str
    parameters: tuple[str, ...] | None
    purpose: str


class Question(NamedTuple):
    """A question and its answer."""

    prompt: str
    answer: str


def find_questions(text: str, *, url: str) -> list[Question]:
    """The questions that one document answers; none unless it is a documentation page of the module that its URL names."""
    module = module_of(url)
    if module is None:
        return []
    return [question for definition in find_definitions(text, module=module) for question in ask_about(definition)]


def module_of(url: str) -> str | None:
    """The dotted module name that a documentation page's URL ends in, or None.

    >>> module_of("https://pydoc.local/json.decoder.html")
    'json.decoder'
    """
    stem = urlsplit(url).path.rpartition("/")[2].removesuffix(".html")
    return stem if _MODULE.fullmatch(stem) else None


def find_definitions(text: str, *, module: str) -> Iterator[Definition]:
    """The public functions and classes of a page that has pydoc's headings, each name once, in the page's order."""
    lines = [" ".join(line.split()) for line in text.replace("\xa0", " ").split("\n")]
    seen: set[str] = set()
    for definition in _find_all(lines, module):
        if definition.name not in seen:
            seen.add(definition.name)
            yield definition


def ask_about(definition: Definition) -> Iterator[Question]:
    """Up to three questions. The phrasing depends on the name only, so that every run asks the same."""
    path = f"{definition.module}.{definition.name}"
    which = len(path) % 2
    if definition.purpose:
        yield Question(_PHRASINGS_PURPOSE[which].format(path=path), definition.purpose)
    if definition.parameters:
        yield Question(_PHRASINGS_PARAMETERS[which].format(path=path), ", ".join(definition.parameters))
    if definition.purpose and not definition.module.startswith("_"):
        yield Question(_PHRASINGS_MODULE[which].format(name=definition.name), f"`{definition.module}`")


def unambiguous(questions: Iterable[Question]) -> list[Question]:
    """The questions without those that two documents answer differently (`copy` stands in many modules), each once."""
    answers: dict[str, set[str]] = {}
    for question in questions:
        answers.setdefault(question.prompt, set()).add(question.answer)
    return [Question(prompt, *found) for prompt, found in answers.items() if len(found) == 1]


def first_sentence(lines: Iterable[str]) -> str:
    """The first sentence of a docstring's first paragraph, with a full stop; "" if it is too long, too short or not prose."""
    paragraph: list[str] = []
    for line in lines:
        if line:
            paragraph.append(line)
        elif paragraph:
            break
    sentence = _SENTENCE_END.split(" ".join(paragraph), maxsplit=1)[0].strip().rstrip(".")
    if sentence.endswith(":") or not MIN_ANSWER_CHARACTERS <= len(sentence) < MAX_ANSWER_CHARACTERS or sentence.count(" ") < 2:
        return ""
    prose = sum(c.isalpha() or c == " " for c in sentence) / len(sentence)
    return f"{sentence[0].upper()}{sentence[1:]}." if prose > 0.8 and sentence[0].isalpha() and ">>>" not in sentence else ""


def parameter_names(parameters: str) -> tuple[str, ...] | None:
    """The names in a signature's parentheses, without defaults and annotations; None if they cannot be told for sure.

    >>> parameter_names("src, dst, *, follow_symlinks: bool = True")
    ('src', 'dst', 'follow_symlinks')
    """
    names = []
    for part in _split_at_commas(parameters):
        name = re.split(r"[:=]", part, maxsplit=1)[0].strip()
        if name in ("", "/", "*"):
            continue
        if not _PARAMETER.fullmatch(name):
            return None
        names.append(name)
    return tuple(n for n in names if n not in ("self", "cls"))


def _find_all(lines: list[str], module: str) -> Iterator[Definition]:
    section, last = "", ""
    i = 0
    while i < len(lines):
        line = lines[i]
        i += 1
        if line in _HEADINGS:
            section = line
            continue
        if section == "Classes" and (found := _CLASS.fullmatch(line)):
            yield _class_definition(lines, i, found["name"], module)
        elif section == "Functions" and (found := _SIGNATURE.fullmatch(line)):
            body = list(_docstring(lines, i, name=found["name"]))
            i += len(body)
            name = found["alias"] or found["name"]
            # pydoc sorts the functions: a name out of order is a line of some docstring that looks like a signature.
            if name > last and not name.startswith("_"):
                last = name
                yield Definition(
                    module, name, _plain_parameters(found["parameters"]), first_sentence(_after_signature(body, found["name"]))
                )


def _class_definition(lines: list[str], start: int, name: str, module: str) -> Definition:
    signature, body = None, []
    for line in lines[start : start + 40]:
        if line in _HEADINGS or line.endswith("defined here:") or line == "Method resolution order:" or _CLASS.fullmatch(line):
            break
        found = _SIGNATURE.fullmatch(line)
        if found and found["name"] == name and signature is None:
            signature = found["parameters"]
        else:
            body.append(line)
    return Definition(module, name, None if signature is None else _plain_parameters(signature), first_sentence(body))


def _docstring(lines: list[str], start: int, *, name: str) -> Iterator[str]:
    for line in lines[start:]:
        found = _SIGNATURE.fullmatch(line)
        # A docstring may begin with its own signature; another name's is the next function.
        if line in _HEADINGS or (found and found["name"] != name):
            return
        yield line


def _after_signature(body: list[str], name: str) -> list[str]:
    for i, line in enumerate(body):
        if line and not line.startswith(f"{name}("):
            return body[i:]
    return []


def _plain_parameters(parameters: str) -> tuple[str, ...] | None:
    names = parameter_names(parameters)
    return names if names and len(names) <= MAX_PARAMETERS else None


def _split_at_commas(text: str) -> list[str]:
    depth, quote, parts = 0, "", [""]
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{<":
            depth += 1
        elif character in ")]}>":
            depth -= 1
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts
