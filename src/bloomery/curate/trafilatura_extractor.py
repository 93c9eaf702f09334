"""trafilatura as the extractor: pure Python, ten times slower, for comparison with corpora that were made with it.

Loaded only where it is chosen (`ExtractConfig.extractor`), so that nothing else needs the package.
"""

from typing import Literal

import trafilatura


def extract_with_trafilatura(html: str, *, format: Literal["text", "markdown"]) -> str:
    """What trafilatura takes for the main content, with its default settings; "" where it finds none."""
    return trafilatura.extract(html, output_format="markdown" if format == "markdown" else "txt") or ""
