"""Questions come out of documentation pages, and out of nothing else."""

import pydoc
import shutil

import pytest
from resiliparse.extract.html2text import extract_plain_text

from bloomery.curate.docs_questions import (
    Definition,
    Question,
    ask_about,
    find_definitions,
    find_questions,
    first_sentence,
    module_of,
    parameter_names,
    unambiguous,
)

PAGE = """boxes index
Module Reference

Boxes to put things into.

Classes
builtins.object
Box

class Box(builtins.object)
Box(size=3, *, colour: str = 'red, or blue')

A box with a lid. Made of wood.

Methods defined here:
__init__(self, size=3)
Initialize self.
open(self)
Open the lid of this box.

Functions
close(box, /)
close(box) -> None

Close a box, e.g. before a journey. Then lock it.
_hidden(x)
Not for the public eyes.
fill(box, *things, **options)
fill\xa0the\xa0box\xa0with\xa0the\xa0things\xa0given

Calls the function that is given:
call(thing)
which must return something useful.
shut = close(box)
Close a box, e.g. before a journey. Then lock it.
undocumented(a, b)

Data
__all__ = ['Box', 'close']
seal(box)
Not a function: this stands under Data.
"""


def test_a_page_gives_its_public_functions_and_classes() -> None:
    assert list(find_definitions(PAGE, module="boxes")) == [
        Definition("boxes", "Box", ("size", "colour"), "A box with a lid."),
        Definition("boxes", "close", ("box",), "Close a box, e.g. before a journey."),
        Definition("boxes", "fill", ("box", "*things", "**options"), "Fill the box with the things given."),
        Definition("boxes", "shut", ("box",), "Close a box, e.g. before a journey."),
        Definition("boxes", "undocumented", ("a", "b"), ""),
    ]


def test_three_questions_for_a_documented_function() -> None:
    assert list(ask_about(Definition("boxes", "close", ("box",), "Close a box."))) == [
        Question("Describe `boxes.close` in one sentence.", "Close a box."),
        Question("Which arguments does `boxes.close` take?", "box"),
        Question("Where is `close` defined?", "`boxes`"),
    ]


def test_a_function_without_docstring_is_asked_for_its_parameters_only() -> None:
    assert [q.answer for q in ask_about(Definition("boxes", "undocumented", ("a", "b"), ""))] == ["a, b"]


def test_pages_that_are_no_documentation_give_no_questions() -> None:
    news = "Functions of the state\nThe minister (left) said that print(money) was over.\nData\nNone."
    assert find_questions(news, url="https://example.com/news.html") == []
    assert find_questions(PAGE, url="https://example.com/2024-01-01/some-post.html") == []
    assert find_questions(PAGE, url="") == []
    assert find_questions("", url="https://example.com/shutil.html") == []


@pytest.mark.parametrize(
    ("url", "module"),
    [
        ("https://pydoc.local/os.path.html", "os.path"),
        ("pydoc://shutil", None),
        ("https://pydoc.local/", None),
        ("https://x.y/a-b.html", None),
        ("https://x.y/_thread.html?q=1", "_thread"),
    ],
)
def test_the_module_is_the_last_part_of_the_url(url: str, module: str | None) -> None:
    assert module_of(url) == module


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ("", ()),
        ("self, x", ("x",)),
        ("a, b=(1, 2), c='x, y', *, d: dict[str, int] = {}", ("a", "b", "c", "d")),
        ("path, copy_function=<function copy2 at 0x7f>, *args", ("path", "copy_function", "*args")),
        ("iterable, /, *, key=None", ("iterable", "key")),
        ("...", None),
        ("[x, ]y", None),
    ],
)
def test_parameter_names_without_defaults_and_annotations(parameters: str, names: tuple[str, ...] | None) -> None:
    assert parameter_names(parameters) == names


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        (["Return the name. And more."], "Return the name."),
        (["", "Return the", "long name", "", "More."], "Return the long name."),
        (["Raised for things (e.g. Opening a pipe) that fail."], "Raised for things (e.g. Opening a pipe) that fail."),
        (["Read version 1.5 of the file."], "Read version 1.5 of the file."),
        ([">>> f(1) and so on with it"], ""),
        (["One of the following:"], ""),
        (["Short one."], ""),
        (["x" * 50 + " and some " + "y" * 150], ""),
        ([], ""),
    ],
)
def test_the_first_sentence_of_a_docstring(docstring: list[str], sentence: str) -> None:
    assert first_sentence(docstring) == sentence


def test_a_question_with_two_answers_is_left_out() -> None:
    questions = [Question("Where is `copy` defined?", "`shutil`"), Question("Where is `copy` defined?", "`copy`"), Question("x?", "y")]
    assert unambiguous([*questions, Question("x?", "y")]) == [Question("x?", "y")]


def test_pythons_own_documentation_of_shutil_is_understood() -> None:
    html = pydoc.HTMLDoc()
    text = extract_plain_text(html.page("shutil", html.document(shutil, "shutil")), main_content=True)
    asked = dict(find_questions(text, url="https://pydoc.local/shutil.html"))
    answers = {prompt.split("`")[1]: answer for prompt, answer in asked.items() if "Describe" in prompt or "does `shutil" in prompt}
    assert "src, dst, follow_symlinks" in asked.values()
    assert asked["Describe `shutil.copyfile` in one sentence."] == "Copy data from src to dst in the most efficient way possible."
    assert asked["Which arguments does `shutil.copyfile` take?"] == "src, dst, follow_symlinks"
    documented = [name for name in shutil.__all__ if f"shutil.{name}" in answers]
    assert len(documented) > 15
    assert "shutil.callable" not in answers  # a line of copytree's docstring that looks like a function
