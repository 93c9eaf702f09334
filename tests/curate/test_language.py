"""Language identification: on plain sentences, against py3langid itself, and by the other identifiers."""

import functools
import gzip
import importlib
import json
from pathlib import Path

import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from bloomery.core.documents import document_table
from bloomery.core.errors import ConfigError, DataError
from bloomery.curate.language import (
    Language,
    add_language_share,
    classify,
    identify_language,
    identify_paragraphs,
    language_share,
    load_identifier,
)

LANGID = Path(__file__).parents[3] / "shared" / "data" / "langid"

SENTENCES = {
    "en": "The furnace is filled with charcoal and ore, and blown for half a day until the iron comes together.",
    "de": "Der Ofen wird mit Holzkohle und Erz gefüllt und einen halben Tag lang mit Luft angeblasen.",
    "fr": "Le fourneau est rempli de charbon de bois et de minerai, puis on y souffle de l'air pendant des heures.",
    "ru": "Печь заполняют древесным углём и рудой, а затем полдня подают в неё воздух.",
    "zh": "炉子里装满木炭和矿石,然后鼓风半天,直到铁聚集在一起。",
    "ja": "炉に木炭と鉄鉱石を入れて、半日のあいだ風を送り続けると、鉄のかたまりができる。",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_recognised_with_a_probability(code):
    language = identify_language(SENTENCES[code])
    assert language.code == code and 0.65 < language.score <= 1


def test_the_middle_of_a_page_counts_more_than_its_menus():
    menu = "Startseite Über uns Impressum Datenschutz Kontakt " * 10
    assert identify_language(menu + SENTENCES["en"] * 40 + menu).code == "en"


@pytest.mark.parametrize("text", ["", "   \n", "123 456 --- !!!"])
def test_a_text_without_letters_has_no_language(text):
    assert identify_language(text) == Language("und", 0.0)


@functools.cache
def their_identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def assert_same(texts: list[str]) -> None:
    for text in texts:
        code, score = their_identifier().classify(text)
        ours = classify(text)
        assert ours.code == code and ours.score == pytest.approx(score, abs=1e-3), text[:80]


def test_the_compiled_loops_say_what_py3langid_says():
    odd = ["", "x", "ZZZ 1", "\ud800", "\x00" * 50, "ACHTUNG ALLES GROSS GESCHRIEBEN", "é" * 3000, "aaaa " * 2000]
    assert_same([*SENTENCES.values(), *odd])


@pytest.mark.parametrize("name", ["udhr2", "wiki_chunks_small_languages"])
def test_the_compiled_loops_say_what_py3langid_says_in_400_languages(name):
    path = LANGID / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip("the texts in many languages are not here")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    assert_same([text[:2000] for text in texts[:: max(len(texts) // 400, 1)]])


def test_each_paragraph_has_its_language_and_headings_have_none():
    text = f"Menu\n{SENTENCES['en']}\n\n{SENTENCES['de']}\n12345 67890 12345 67890 12345"
    paragraphs = identify_paragraphs(text)
    assert [p.code for p in paragraphs] == ["en", "de"]
    assert [text[p.start : p.end] for p in paragraphs] == [SENTENCES["en"], SENTENCES["de"]]


def test_the_share_of_a_language_is_of_the_characters_of_paragraphs():
    text = f"{SENTENCES['en']}\n{SENTENCES['de']}"
    english = len(SENTENCES["en"])
    assert language_share(text, "en") == pytest.approx(english / (english + len(SENTENCES["de"])))
    assert language_share("Menu", "en") == 1.0
    rows = [{"id": "a", "text": text, "language": "en"}, {"id": "b", "text": SENTENCES["ru"], "language": "ru"}]
    table = add_language_share(add_language_share(document_table(rows)))
    assert table.column("signal_language_share").to_pylist() == [pytest.approx(language_share(text, "en")), 1.0]


def test_cld2_answers_in_the_same_way():
    pytest.importorskip("pycld2")
    cld2 = load_identifier("cld2")
    for code, sentence in SENTENCES.items():
        assert identify_language(sentence * 2, identifier=cld2).code == code
    assert cld2("\x00\ud800\ufdd0 The furnace is filled with charcoal and ore.").code == "en"
    assert identify_language("123", identifier=cld2) == Language("und", 0.0)


def test_a_fasttext_model_is_given_by_the_user_and_a_wrong_file_is_named(tmp_path):
    pytest.importorskip("fasttext")
    with pytest.raises(ConfigError, match="needs a model file"):
        load_identifier("fasttext")
    (tmp_path / "wrong.bin").write_bytes(b"no model")
    with pytest.raises(DataError, match=r"wrong\.bin: not a fastText model"):
        load_identifier("fasttext", tmp_path / "wrong.bin")


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pycld2.*pip install 'bloomery\[langid\]'"):
        load_identifier("cld2")
    with pytest.raises(ConfigError, match="known: py3langid"):
        load_identifier("guess")
