"""Words cut as spaCy cuts English: the expected words below are those of datatrove 0.10.1 with spaCy 3.8."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.curate.kernels import text_column
from bloomery.curate.word_kernels import cut_words, decode, exception_words, hash_string


def words_of(text: str) -> list[str]:
    texts = decode(*text_column(pa.chunked_array([pa.array(["before it, ", text], pa.large_string())]), lowercase=False))
    words = cut_words(texts)
    first, mine = texts.bounds[1], slice(words.bounds[1], words.bounds[2])
    found = [text[a - first : b - first] for a, b in zip(words.starts[mine].tolist(), words.ends[mine].tolist(), strict=True)]
    assert words.hashes[mine].tolist() == [hash_string(word) for word in found]
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't you think it's the smiths' bloom, isn't it?", "Do n't you think it 's the smiths ' bloom , is n't it ?"),
        ('"Well," she said (at 5p.m.): "we\'ll see..."', '" Well , " she said ( at 5 p.m. ): " we \'ll see ... "'),
        (
            "See https://example.org/a-b/c_d?x=1, or write to ann@example.org.",
            "See https://example.org/a-b/c_d?x=1 , or write to ann@example.org .",
        ),
        (
            "Mr. O'Neil paid $5.50 for 10km of U.S. cable; 3+4=7, e.g. 20%.",
            "Mr. O'Neil paid $ 5.50 for 10 km of U.S. cable ; 3 + 4=7 , e.g. 20 % .",
        ),
        (
            "state-of-the-art and/or well-known--rather: a/b, x=y, end.Next; 1990-1995",
            "state - of - the - art and/or well - known -- rather : a / b , x = y , end . Next ; 1990 - 1995",
        ),
        (
            "I'm gonna go, cannot wait :) #tag @you C++ 5'10\" rock'n'roll",
            "I 'm gon na go , can not wait :) # tag @you C++ 5'10 \" rock'n'roll",
        ),
        ("The cat’s tail… isn’t “long”—or is it?", "The cat ’s tail … is n’t “ long”—or is it ?"),
        (
            "N.Y.-based Ph.D. students' 2,500 books (vol. 3) [12] etc.",
            "N.Y.-based Ph.D. students ' 2,500 books ( vol . 3 ) [ 12 ] etc .",
        ),
        (
            "*bold* _under_ <b>x</b> `code` {a:b} 50° 20°C. ©2024 →here",
            "* bold * _ under _ < b > x</b > ` code ` { a : b } 50 ° 20 ° C . © 2024 →here",
        ),
        (
            "Hello.World foo,bar 12,5 a.b.c v1.2.3 10-20 -5 +7 x+y",
            "Hello . World foo , bar 12,5 a.b.c v1.2.3 10 - 20 -5 +7 x+y",
        ),
    ],
)
def test_words_are_those_of_spacy(text, expected):
    assert words_of(text) == expected.split()


def test_a_character_of_a_script_without_spaces_is_a_word():
    assert words_of("块炼铁,OK 3铁。") == ["块", "炼", "铁", ",", "OK", "3", "铁", "。"]
    assert words_of("ไทย and たたら") == ["ไ", "ท", "ย", "and", "た", "た", "ら"]


def test_an_exception_is_cut_into_its_parts():
    for word, parts in exception_words().items():
        assert "".join(parts) == word
        assert words_of(f"x {word} x") == ["x", *parts, "x"], word


@settings(max_examples=200, deadline=None)
@given(st.text("aB1.,'’\"()-—…:/@#$+ \n\té你ไ😀", max_size=40))
def test_words_are_the_text_without_its_white_space(text):
    assert "".join(words_of(text)) == "".join(text.split())
