"""Pages cut into blocks, blocks measured, scored and chosen; code and lists keep their lines."""

import json
import random
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree
from sklearn.ensemble import HistGradientBoostingClassifier

from bloomery.core.errors import DataError
from bloomery.curate.block_features import FEATURES, SCORE_FEATURES, measure_scores
from bloomery.curate.block_kernels import find_copies
from bloomery.curate.block_labels import label_blocks
from bloomery.curate.block_training import BlockTrainingConfig, block_texts, class_words, fit_trees
from bloomery.curate.blocks import (
    MAX_BLOCKS,
    NO_WORDS,
    SHIPPED_MODEL,
    choose_blocks,
    cut_page,
    dump_model,
    find_content,
    load_block_model,
    make_forest,
    make_words,
    measure_page,
    render_blocks,
    score_rows,
)
from bloomery.curate.extract import encode_bytes, extract_blocks
from bloomery.curate.html_tags import B_KIND, B_LINK_CHARS, B_WORDS, E_ATTRIBUTES, E_DEPTH, E_FIRST, E_LAST, E_QUOTED, NAMED
from bloomery.curate.warc import Capture, read_captures

SENTENCE = "The furnace is filled with charcoal and ore in layers, and blown for half a day. "
PAGE = (
    "<html><body><header><nav><ul><li><a href=/>Home</a><li><a href=/shop>Shop</a></ul></nav></header>"
    f"<main><article><h1>How iron was made</h1>{''.join(f'<p>{SENTENCE * 3}</p>' for _ in range(8))}</article></main>"
    "<footer><p>© 2024 All rights reserved</p></footer></body></html>"
)


def cut(html: str):
    return cut_page(html.encode(), NO_WORDS)


def texts(html: str) -> list[str]:
    return block_texts(cut(html))


def test_a_block_ends_where_a_tag_breaks_the_line():
    assert texts("<p>one <b>big</b> <a href=x>world</a><p>two<div>three<br>four<hr>five") == ["one big world", "two", "three\nfour", "five"]


def test_cells_of_a_row_are_one_block_and_items_are_blocks_of_their_own():
    assert texts("<table><tr><td>a<td>b<tr><th>c<td>d</table><ul><li>e<li>f</ul>") == ["a | b", "c | d", "e", "f"]


def test_white_space_is_kept_in_pre_and_collapsed_elsewhere():
    assert texts("<pre>  def f():\n\n      return 1\n</pre><p> a \n\t b&nbsp; c ") == ["  def f():\n\n      return 1", "a b c"]
    assert texts("<pre><div>x = 1</div><div>y = 2</div></pre>") == ["x = 1\ny = 2"]


def test_scripts_and_choices_are_no_text_but_noscript_is():
    html = "<script>if (a<b) x</script><style>p{}</style><select><option>Afghanistan</select><svg><title>icon</title></svg>"
    assert texts(f"{html}<noscript><p>plain &amp; simple</noscript><!-- no --><p>1 &lt; 2") == ["plain & simple", "1 < 2"]


def test_links_and_words_are_counted_and_elements_know_their_blocks():
    page = cut("<ul class=menu><li><a href=x>two words</a></ul><p>three more words")
    assert page.blocks[:, B_WORDS].tolist() == [2, 3] and page.blocks[:, B_LINK_CHARS].tolist() == [8, 0]
    assert [NAMED[kind - 1] for kind in page.blocks[:, B_KIND]] == ["li", "p"]
    assert page.elements[0, E_FIRST] == 0 and page.elements[0, E_LAST] == 2


PARTS = ["<p>", "</p>", "<div class='a b'>", "</div>", "<b>", "</b>", "<a href='x>y'>", "</a>", "<table><tr><td>", "</table>"]
PARTS += ["<li>", "<pre>", "</pre>", "<br>", "&lt;", "ж", " one ", "two", "<!-- c -->", "\n"]


SOUP = ["<p>", "</p>", "<div>", "</div>", "<b>", "</b>", "<a href=x>", "</a>", "<ul>", "</ul>", "<li>", "</li>", "<span>", "</span>"]
SOUP += ["<h2>", "</h2>", "<dl>", "<dt>", "<dd>", "</dl>", "<br>", "</br>", "<section>", "</section>", "<blockquote>", "</blockquote>"]
SOUP += ["<select><option>no<option>no</select>", "<button>", "</button>", "<svg><path/></svg>", "<!-- no -->"]
SOUP += ["<script>if (a<b) '</p>'</script>", " one ", "two.", "&lt;", "&eacute;t&#233;", "<center>", "</center>", "</body>", "\n"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(SOUP), max_size=30))
def test_tags_left_out_or_misplaced_are_read_as_by_a_browserʼs_parser(parts):
    html = "<body>" + "".join(parts)
    assert texts(html) == texts(str(HTMLTree.parse(html)))


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<table><tr><td>a<p>b<td>c<tr><td>d</table>e", ["a", "b", "c", "d", "e"]),
        ("<ul><li>a<ul><li>b</ul><li>c</ul>d", ["a", "b", "c", "d"]),
        ("<p>a<a href=x>b<p>c</a>d", ["ab", "cd"]),
        ("<table><tr><td><div>a</td><td>b</div></table>c", ["a", "b", "c"]),
        ("<svg><path d='M0'/><title>x</title><div>a</div>", ["a"]),
        ("<svg class=icon/><p>a", ["a"]),
        ("<textarea><p>a</textarea><title>b</title><p>c", ["c"]),
        ("<my-card>a<my-title>b</my-title></my-card>c", ["a", "b", "c"]),
        ("a<!-->b<!--->c<!-- > --!>d", ["abcd"]),
        ("&AMP &ampx &notit; &hellip;&#x26;&#150;&#x92;&#0;&#xD800;&bogus; &", ["& &x ¬it; …&–’\ufffd\ufffd&bogus; &"]),
    ],
)
def test_the_standardʼs_corners_that_pages_use(html, expected):
    assert texts(html) == expected


def test_quotations_are_known_through_what_stands_inside_them():
    page = cut("<blockquote><div><p>a</div></blockquote><p>b")
    assert page.elements[1:, E_QUOTED].tolist() == [1, 1, 1, 0]


def test_what_a_page_can_ask_for_is_bounded():
    page = cut("<p>a" * (MAX_BLOCKS + 9) + "<time>" * 999)
    assert MAX_BLOCKS <= len(page.blocks) <= MAX_BLOCKS + 1
    facts = cut("<meta name=a content=b>" * 999 + "<time datetime=x></time>" * 999 + "<script type=ld+json>{}</script>" * 99).facts
    assert len(facts.times) == 200 and len(facts.scripts) == 24
    deep = cut_page(b"<div>" * 500 + b"a" + b"</div>" * 500 + b"<p>b", NO_WORDS, max_nesting=20)
    assert deep.nesting == 500 and deep.elements[:, E_DEPTH].max() == 20 and block_texts(deep) == ["a", "b"]


def test_the_real_pages_have_the_blocks_that_a_parser_gives():
    shared = Path(__file__).parents[3] / "shared" / "data" / "web"
    if not shared.is_dir():
        pytest.skip(f"{shared} is missing: real web pages are not part of the repository")
    same = []
    for number, item in enumerate(read_captures(shared / "pages-00000.warc.gz", max_record_bytes=8 << 20)):
        if number % 4 == 0 and isinstance(item, Capture):
            utf8 = encode_bytes(item.body, charset=item.charset).utf8
            same.append(block_texts(cut_page(utf8, NO_WORDS)) == texts(str(HTMLTree.parse(utf8.decode()))))
    assert len(same) > 80 and sum(same) >= 0.96 * len(same)


class PlainText(HTMLParser):
    """All text between tags, from the standard library's tokeniser."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=40))
def test_no_letter_is_lost_and_none_is_made_up(parts):
    html = "<body>" + "".join(parts)
    expected = PlainText()
    expected.feed(html)
    expected.close()
    found = "".join(texts(html))
    assert [c for c in found if c.isalpha()] == [c for c in "".join(expected.found) if c.isalpha()]


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet='<>/"=! -apdivtbrest&;é', max_size=80))
def test_any_bytes_are_cut_without_a_parser_before_them(html):
    page = cut(html)
    features = measure_page(page)
    scores = measure_scores(page.blocks, page.elements, np.full(len(page.blocks), 0.5))
    assert features.shape == (len(page.blocks), len(FEATURES)) and np.isfinite(features).all()
    assert scores.shape == (len(page.blocks), len(SCORE_FEATURES)) and np.isfinite(scores).all()


def test_class_words_are_read_by_training_as_the_kernel_reads_them():
    html = b"""<DIV CLASS='postBody main-content2' title="a > b" id=x role = "main" data-testid="story"><p style="Display : none">a"""
    page = cut_page(html, NO_WORDS)
    words = [class_words(html, int(at)) for at in page.elements[1:, E_ATTRIBUTES]]
    assert {"post", "body", "main", "content", "x", "story"} in words and {"displaynone"} in words
    for odds, expected in (({"story": 2.0, "post": -1.0}, [1.0, -1.0, 2.0]), ({"displaynone": -3.0}, [0.0, 0.0, 0.0])):
        div = next(i for i, found in enumerate(words, start=1) if "story" in found)
        assert cut_page(html, make_words(odds, {})).element_odds[div].tolist() == expected


def test_text_words_carry_their_odds_into_the_block():
    page = cut_page(b"<p>Please Subscribe now</p><p>nothing here</p>", make_words({}, {"subscribe": -2.0, "now": 0.5}))
    assert page.odds.tolist() == [[-1.5, -2.0], [0.0, 0.0]]


def test_a_forest_gives_the_probabilities_of_scikit_learn():
    generator = np.random.default_rng(0)
    rows = [generator.normal(size=(40, len(FEATURES))).astype(np.float32) for _ in range(20)]
    labels = [(row[:, 0] + row[:, 3] * row[:, 5] > 0).astype(np.float64) for row in rows]
    config = BlockTrainingConfig(min_leaf_blocks=5, seed=3)
    baseline, trees = fit_trees(rows, labels, [np.ones(40)] * 20, np.arange(20), config, trees=12)
    ours = score_rows(np.concatenate(rows), make_forest(baseline, json.loads(json.dumps(trees)), FEATURES))
    theirs = HistGradientBoostingClassifier(
        max_iter=12, max_leaf_nodes=31, learning_rate=0.12, min_samples_leaf=5, l2_regularization=5.0, max_bins=127,
        max_features=0.5, early_stopping=False, random_state=3,
    ).fit(np.concatenate(rows), np.concatenate(labels) >= 0.5, sample_weight=np.ones(800))  # fmt: skip
    assert np.allclose(ours, theirs.predict_proba(np.concatenate(rows))[:, 1], atol=1e-4)


def test_the_chosen_blocks_have_the_highest_expected_f1_of_all_sets():
    draw = random.Random(0)
    for _ in range(30):
        scores, words = np.array([draw.random() for _ in range(7)]), np.array([draw.randint(1, 50) for _ in range(7)])

        def expected_f1(keep, scores=scores, words=words):
            return 2 * (scores * words)[keep].sum() / (words[keep].sum() + (scores * words).sum())

        sets = [np.array([mask >> i & 1 for i in range(7)], bool) for mask in range(1, 128)]
        assert expected_f1(choose_blocks(scores, words)) == pytest.approx(max(map(expected_f1, sets)))


def test_labels_follow_the_order_of_the_gold_text():
    blocks = ["Iron", "News about iron", "Iron is smelted in a bloomery furnace.", "Slag runs off below.", "Subscribe to news about iron"]
    assert label_blocks(blocks, "Iron is smelted in a bloomery furnace. Slag runs off below.").tolist()[2:4] == [1.0, 1.0]
    moved = label_blocks(
        ["Slag runs off below it.", "Iron is smelted in a furnace."], "Iron is smelted in a furnace. Slag runs off below it."
    )
    assert moved.tolist() == [1.0, 1.0]


def test_the_article_is_kept_and_navigation_and_footer_go():
    text = extract_blocks(PAGE.encode())
    assert text.count("The furnace") == 24 and "Shop" not in text and "rights" not in text


def test_what_a_page_says_twice_is_kept_once():
    page = cut(
        f"<p>{SENTENCE}</p><p>Something else.</p><div>{SENTENCE.upper()}</div><p>{SENTENCE}And this is new, all of it, to the end.</p>"
    )
    order = np.array([2, 1, 0, 3])
    assert find_copies(page.text, page.blocks, order, 15, 0.15).tolist() == [True, False, False, False]


def test_a_page_of_one_block_is_that_block_and_a_page_without_text_is_empty():
    assert extract_blocks(b"<p>Hello.</p>") == "Hello." and extract_blocks(b"") == "" and extract_blocks(b"<img><p>") == ""


def test_markdown_marks_headings_quotations_and_code_and_drops_links():
    html = "<h2>Use <i>it</i></h2><blockquote><p>Old <a href=x>words</a></blockquote><ul><li>one<li>two</ul><pre>a\n  b</pre><p>end"
    page = cut(html)
    keep = np.ones(len(page.blocks), bool)
    assert render_blocks(page, keep, format="markdown") == "## Use it\n\n> Old words\n\n- one\n- two\n\n```\na\n  b\n```\n\nend"
    assert render_blocks(page, keep, format="text") == "Use it\n\nOld words\n\n- one\n- two\n\na\n  b\n\nend"


def test_the_shipped_model_is_readable_and_written_by_the_command(tmp_path):
    raw = json.loads(SHIPPED_MODEL.read_text(encoding="utf-8"))
    assert raw["class_words"]["footer"] < -1 and "CC BY 4.0" in raw["attribution"]
    assert dump_model(raw) == SHIPPED_MODEL.read_text(encoding="utf-8")
    model = load_block_model(SHIPPED_MODEL)
    page = cut_page(PAGE.encode(), model.words)
    assert find_content(page, model).sum() >= 8


def test_what_is_no_model_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        load_block_model(tmp_path / "nowhere")
    (tmp_path / "x.json").write_text('{"format": "other"}')
    with pytest.raises(DataError, match=r"x\.json.*bloomery blocks 1"):
        load_block_model(tmp_path / "x.json")
