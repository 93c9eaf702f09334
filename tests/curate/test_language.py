"""Language identification on plain sentences."""

import pytest

from bloomery.curate.language import Language, identify_language

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
