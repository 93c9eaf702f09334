"""Pages that stand alone: a Jinja template beside the code that fills it, and one style for all of them."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any  # Any: values handed to the template

import jinja2

from bloomery.core.files import write_text


def write_page(path: Path, *, package: str, template: str, view: Mapping[str, Any]) -> Path:
    """Fills `template` of `package` with `view` and writes it to `path`, which it returns. Of HTML everything is escaped.

    A template asks for the common style sheet as `{{ style | safe }}`. A name that the view lacks is an error.
    """
    environment = jinja2.Environment(
        autoescape=template.endswith(".html.j2"), trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = (files(package) / template).read_text(encoding="utf-8")
    style = (files("bloomery.core") / "page.css").read_text(encoding="utf-8")
    write_text(path, environment.from_string(text).render(style=style, **view))
    return path
