"""What the passes over HTML know of its elements: which break lines, hold text, nest, close one another; its entities.

Plain data. `block_kernels` reads pages by it, as a browser's parser would, roughly: the rules of the HTML standard (13.2.6)
for end tags that are left out or in the wrong place, without foster parenting and without opening formatting again.
"""

import functools
import html.entities
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

VOID_TAGS = (
    "area base br col embed hr img input link meta param source track wbr "
    "p li dt dd tr td th thead tbody tfoot option optgroup html head body"
)
"""Elements without an end tag, or whose end tag may be left out: they do not nest by being left open."""

RAW_TEXT_TAGS = "script style textarea title"
"""Elements whose content is no markup."""

INLINE, BLOCK, VOID, SKIPPED, RAW = 0, 1, 2, 3, 4
_VOID = "area base br col embed hr img input link meta param source track wbr basefont bgsound frame keygen option optgroup"
_RAW = "script style xmp iframe noembed noframes plaintext textarea title"
_SKIPPED = "svg select datalist object video audio canvas map"
_INLINE = (
    "abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd mark math nobr output q rp rt ruby s samp small span "
    "strike strong sub sup time tt u var picture mi mo mn mrow msup msub mfrac mtext semantics"
)
TAGS: dict[str, int] = {
    **dict.fromkeys(_VOID.split(), VOID),
    **dict.fromkeys(_RAW.split(), RAW),
    **dict.fromkeys(_SKIPPED.split(), SKIPPED),
    **dict.fromkeys(_INLINE.split(), INLINE),
}
"""What a tag does to the text around it; a tag that is not here begins and ends a block."""

_NAMED = (
    "br hr a p li td th tr h1 h2 h3 h4 h5 h6 blockquote pre dt dd figcaption label button summary caption address article main "
    "section nav aside footer header form ul ol dl table figure details dialog div body center fieldset noscript template "
    "b strong em code span time"
)
NAMED = _NAMED.split()
"""The tags that the passes and the features name, in the order of their codes (from 1 on)."""
CODE = {name: code for code, name in enumerate(NAMED, start=1)}

_TAG_GROUPS = (
    "article main section nav aside footer header form ul ol dl table td figure details dialog blockquote label button li p "
    "noscript template"
)
TAG_GROUPS = _TAG_GROUPS.split()
"""Elements whose nearest occurrence above a block is a feature."""

WORD_GROUPS: dict[str, str] = {
    "comment": "comment comments discussion disqus replies reply respond responses",
    "sidebar": "sidebar side rail aside complementary secondary",
    "footer": "footer foot bottom colophon contentinfo copyright legal",
    "header": "header head masthead top banner",
    "menu": "nav menu navbar navigation topnav megamenu dropdown submenu tabs tab toolbar",
    "share": "share sharing social facebook twitter follow addthis",
    "related": "related recommend recommended recommendations recirc more similar suggested suggestions popular trending latest "
    "recent also upsell",
    "advert": "ad ads advert advertisement sponsor sponsored promo promotion banner cta",
    "content": "content contents entry story richtext rte prose markdown wysiwyg copy main primary",
    "article": "article post blog blogpost articlebody hentry news",
    "body": "body text paragraph description desc articlebody textblock",
    "author": "author byline bio avatar profile",
    "date": "date time timestamp published meta metadata",
    "crumb": "breadcrumb breadcrumbs crumb crumbs breadcrumblist",
    "cookie": "cookie cookies consent gdpr onetrust privacy",
    "overlay": "popup modal overlay dialog drawer lightbox offcanvas flyout tooltip notification alert toast",
    "signup": "newsletter subscribe subscription signup form optin mailchimp login signin account register",
    "product": "product products price sku cart buy shop variant variants add",
    "review": "review reviews rating ratings stars testimonial testimonials",
    "forum": "thread topic message messages forum answer answers question questions signature quote cooked",
    "tag": "tag tags category categories label labels badge pill keywords taxonomy",
    "widget": "widget widgets module block component",
    "caption": "caption credit figcaption image img gallery media slider carousel slide swiper",
    "hidden": "hidden hide invisible collapse collapsed displaynone",
    "reader": "sr screen visually screenreader skip",
    "search": "search filter filters sort facet facets pagination pager paging",
    "list": "list grid card cards item items tile tiles feed results result loop",
    "answer": "accordion faq faqs panel toggle",
    "hero": "hero jumbotron intro lead subtitle headline title heading",
    "toc": "toc outline index onthispage",
    "code": "code highlight codehilite syntax language snippet terminal",
    "table": "table specs spec specification specifications attributes",
}
"""Words in a class, id, role or itemprop, by what they say of an element; several spellings of one thing."""

GROUPS = [*(f"<{name}>" for name in TAG_GROUPS), *WORD_GROUPS]
"""Bit i of an element's bits: it is such an element, or has such a class word."""

CODE_BR, CODE_HR, CODE_A, CODE_TD, CODE_TH, CODE_PRE = CODE["br"], CODE["hr"], CODE["a"], CODE["td"], CODE["th"], CODE["pre"]
CODE_B, CODE_STRONG, CODE_EM, CODE_CODE, CODE_H1 = CODE["b"], CODE["strong"], CODE["em"], CODE["code"], CODE["h1"]
CODE_TIME, CODE_P = CODE["time"], CODE["p"]

(
    CLOSES_P, SPECIAL, TRANSPARENT, BOUNDARY, RESETS_P, FORMATTING, HEADING, ITEM, TERM, TABLE, ROW_GROUP, ROW, CELL, LIST,
    ROOT, HEAD, FORM, FOREIGN, BREAKS,
) = (1 << bit for bit in range(19))  # fmt: skip
"""What an element is to others. CLOSES_P: it ends an open <p>. SPECIAL: end tags of inline elements do not reach through it.
TRANSPARENT: an <li> or <dd> finds its open sister through it all the same. BOUNDARY: end tags of blocks do not reach
through it. RESETS_P: a <p> outside stays open. FOREIGN: HTML begins again inside an <svg>. BREAKS is set while pages are
read, for elements that end a block where they end.
"""
_ROLES = {
    CLOSES_P: "address article aside blockquote center details dialog dir div dl fieldset figcaption figure footer header hgroup main "
    "menu nav ol p search section summary ul h1 h2 h3 h4 h5 h6 pre listing form table hr xmp plaintext li dd dt",
    SPECIAL: "address applet area article aside base basefont bgsound blockquote body br button caption center col colgroup dd details "
    "dir div dl dt embed fieldset figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html iframe "
    "img input keygen li link listing main marquee menu meta nav noembed noframes noscript object ol p param plaintext pre script "
    "search section select source style summary table tbody td template textarea tfoot th thead title tr track ul wbr xmp",
    TRANSPARENT: "address div p",
    BOUNDARY: "applet caption html table td th marquee object template",
    RESETS_P: "applet button caption html table td th marquee object template",
    FORMATTING: "a b big code em font i nobr s small strike strong tt u",
    HEADING: "h1 h2 h3 h4 h5 h6",
    ITEM: "li",
    TERM: "dd dt",
    TABLE: "table template html",
    ROW_GROUP: "tbody thead tfoot caption colgroup",
    ROW: "tr",
    CELL: "td th",
    LIST: "ul ol menu dir",
    ROOT: "html body",
    HEAD: "head",
    FORM: "form",
    FOREIGN: "foreignobject desc",
}

B_START, B_STOP, B_ELEMENT, B_KIND, B_LINKS, B_LINK_CHARS, B_BREAKS, B_EMPHASES, B_WORDS, B_SENTENCES = range(10)
B_COMMAS, B_DIGITS, B_CAPITALS, B_LETTERS, B_ENDS, B_CODE_CHARS, B_MONEY, B_HASH = range(10, 18)
NUM_BLOCK_FIELDS = 18
E_PARENT, E_TAG, E_DEPTH, E_FIRST, E_LAST, E_SIGNATURE, E_ATTRIBUTES, E_QUOTED = range(8)
NUM_ELEMENT_FIELDS = 8
M_KIND, M_START, M_STOP = range(3)
MARK_META, MARK_TITLE, MARK_HEADING, MARK_TIME, MARK_JSON, MARK_HEAD_END = range(6)
"""Places that metadata is read from: the attributes of a <meta> or <time>, the text of the first <title>, the tag of the first
<h1>, the text of a script of JSON-LD, the end of the head.
"""
MOST_MARKS = np.array([400, 1, 1, 200, 24, 1])


def pack_name(name: str) -> int:
    """A tag's name as the passes compare it: its last eight letters as one number."""
    packed = 0
    for byte in name.encode():
        packed = (packed << 8 | byte) & 0xFFFFFFFFFFFFFFFF
    return packed


def hash_word(word: str | bytes) -> int:
    """The FNV-1a hash by which the passes know a word."""
    state = 0xCBF29CE484222325
    for byte in word.encode() if isinstance(word, str) else word:
        state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state


def open_table(hashes: Sequence[int]) -> tuple[np.ndarray[Any, np.dtype[np.uint64]], Iterable[tuple[int, int]]]:
    """An open-addressing table of keys, see `html_kernels.look_up`, and (place, number) of every key."""
    size = 1 << max(4, (3 * len(hashes)).bit_length())
    keys = np.zeros(size, np.uint64)
    order = []
    for number, key in enumerate(hashes):
        at = (key ^ key >> 29) & size - 1
        while keys[at]:
            assert int(keys[at]) != key, f"two words have the hash {key}"
            at = at + 1 & size - 1
        keys[at] = key
        order.append((at, number))
    return keys, order


@functools.cache
def tag_table() -> tuple[np.ndarray[Any, Any], ...]:
    """What is known of tags: (keys, codes, kinds, roles, bits of groups)."""
    known_roles = {name for spelled in _ROLES.values() for name in spelled.split()}
    names = sorted({*TAGS, *NAMED, *known_roles})
    keys, order = open_table([pack_name(name) for name in names])
    codes, kinds, roles = np.zeros(len(keys), np.int64), np.full(len(keys), BLOCK, np.int64), np.zeros(len(keys), np.int64)
    bits = np.zeros(len(keys), np.uint64)
    for place, number in order:
        name = names[number]
        codes[place], kinds[place] = CODE.get(name, 0), TAGS.get(name, BLOCK)
        roles[place] = sum(role for role, spelled in _ROLES.items() if name in spelled.split())
        bits[place] = 1 << GROUPS.index(f"<{name}>") if name in TAG_GROUPS else 0
    return keys, codes, kinds, roles, bits


@functools.cache
def entity_table() -> tuple[np.ndarray[Any, Any], ...]:
    """The named character references of HTML: (keys, values) of all, and of those that need no semicolon.

    A value is UTF-8, its first byte in the lowest eight bits; a non-breaking space is a space.
    """
    tables: list[np.ndarray[Any, Any]] = []
    for ending in (";", ""):
        names = sorted(name for name in html.entities.html5 if name.endswith(";") == bool(ending))
        keys, order = open_table([hash_word(name.removesuffix(";")) for name in names])
        values = np.zeros(len(keys), np.uint64)
        for place, number in order:
            text = html.entities.html5[names[number]].replace("\xa0", " ")
            values[place] = int.from_bytes(text.encode(), "little")
        tables += [keys, values]
    return tuple(tables)


@functools.cache
def shape_tags() -> tuple[np.ndarray[tuple[int], np.dtype[np.uint64]], ...]:
    """VOID_TAGS and RAW_TEXT_TAGS as `measure_html` compares them."""
    return tuple(np.array([pack_name(name) for name in names.split()], np.uint64) for names in (VOID_TAGS, RAW_TEXT_TAGS))
