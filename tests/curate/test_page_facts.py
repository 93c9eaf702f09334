"""Names of software in a page's head, found in one pass, against a search for each name."""

import random

import numpy as np

from bloomery.curate.html_kernels import find_software

BOARDS = (b"vbulletin", b"vBulletin", b"phpbb", b"phpBB", b"xenforo", b"XenForo")
ALMOST = (b"VBulletin", b"Shopify", b"PHPBB", b"phpb", b"xenForo", b"xen", b"sh", b"v", b" ")


def test_one_pass_finds_the_names_that_a_search_for_each_finds():
    rng = random.Random(0)
    for _ in range(3000):
        pieces = [rng.choice((*BOARDS, b"shopify", *ALMOST)) if rng.random() < 0.1 else rng.randbytes(1) for _ in range(rng.randrange(60))]
        head = b"".join(pieces)
        expected = (b"shopify" in head, any(name in head for name in BOARDS))
        assert find_software(np.frombuffer(head, np.uint8)) == expected, head
