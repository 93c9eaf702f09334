"""A block model trained on a few made-up sites finds the content of another one."""

import json

import numpy as np
import pytest

from bloomery.core.errors import DataError
from bloomery.curate.block_training import BlockTrainingConfig, assign_folds, make_example, read_examples, site_of, train_blocks
from bloomery.curate.blocks import dump_model
from bloomery.curate.extract import extract_blocks
from bloomery.curate.warc import Capture, WrittenPage, write_warc

SETTINGS = BlockTrainingConfig(
    first_trees=8,
    second_trees=8,
    folds=2,
    min_leaf_blocks=3,
    min_class_word_domains=2,
    min_text_word_domains=2,
    unknown_language_fraction=0,
)
TEXT = "Iron number {} was smelted in this furnace, and hammered while it was hot."


def site(number: int) -> tuple[str, str, str]:
    """(url, page, gold text): content in a box that only its class tells from the box of advertisements."""
    content = [TEXT.format(f"{number} {i}") for i in range(6)]
    boxes = "".join(f"<p>{line}</p>" for line in content)
    offers = "".join(f"<p>Offer {number} {i}: buy this furnace now, while it is hot and cheap.</p>" for i in range(6))
    first, second = (f'<div class="story-box">{boxes}</div>', f'<div class="offer-box">{offers}</div>')
    page = f"<html><body>{first + second if number % 2 else second + first}</body></html>"
    return f"https://site{number}.example/page", page, "\n".join(content)


def examples(numbers: range):
    return [make_example(Capture(0, url, "", "text/html", None, page.encode(), False), gold) for url, page, gold in map(site, numbers)]


def test_a_model_of_twelve_sites_finds_the_content_of_a_thirteenth(tmp_path):
    path = tmp_path / "extraction_model.json"
    path.write_text(dump_model(train_blocks(examples(range(12)), SETTINGS, about={}, log=lambda note: None)))
    model = json.loads(path.read_text())
    assert model["class_words"]["story"] > 0 > model["class_words"]["offer"]
    for number in (12, 13):
        _, page, gold = site(number)
        assert extract_blocks(page.encode(), model=path).split("\n\n") == gold.split("\n")


def test_training_twice_gives_the_same_bytes():
    made = [dump_model(train_blocks(examples(range(6)), SETTINGS, about={}, log=lambda note: None)) for _ in range(2)]
    assert made[0] == made[1]


def test_pages_are_joined_with_their_gold_text_by_url(tmp_path):
    write_warc(tmp_path / "pages.warc.gz", [WrittenPage(url, page.encode()) for url, page, _ in map(site, range(3))])
    truth = tmp_path / "truth.jsonl"
    truth.write_text("".join(json.dumps({"url": url, "main_content": gold}) + "\n" for url, _, gold in map(site, range(2))))
    found = list(read_examples([tmp_path / "pages.warc.gz"], [truth]))
    assert [example.url for example in found] == [site(0)[0], site(1)[0]]
    assert sorted(found[0].labels.tolist()) == [0.0] * 6 + [1.0] * 6
    truth.write_text('{"url": "x"}\n')
    with pytest.raises(DataError, match="main_content"):
        list(read_examples([], [truth]))


def test_pages_of_one_site_fall_into_one_fold_and_folds_are_of_one_size():
    names = [site_of(url) for url in ("https://a.co.uk/1", "https://www.a.co.uk/2", "http://b.example/", "http://x.b.example:80/")]
    assert names == ["a.co.uk", "a.co.uk", "b.example", "b.example"]
    folds = assign_folds([f"{i // 2}" for i in range(40)], 4, seed=0)
    assert np.bincount(folds).tolist() == [10, 10, 10, 10] and (folds[::2] == folds[1::2]).all()
