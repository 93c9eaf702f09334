"""How a model is asked for documents: styles and audiences as data, and the one message made of them and a subject.

After phi (arXiv:2306.11644, 2309.05463) and Cosmopedia (huggingface.co/blog/cosmopedia): what keeps such documents different
from each other is less the model's temperature than many subjects, times ways to write, times readers. The words are ours.
"""

import re
from collections.abc import Mapping

STYLES: Mapping[str, str] = {
    "textbook": "Write a section of a textbook about {subject}. Explain every idea before you use it, and work through one example.",
    "encyclopedia": "Write an article for an encyclopedia about {subject}. State what is known, in order, without opinions.",
    "blog_post": "Write a blog post about {subject}, in the voice of somebody who has done it and says what went wrong.",
    "how_to": "Write instructions about {subject}, in numbered steps, each with its reason. End with how to tell that it worked.",
    "story": "Write a short story in which {subject} matters to what happens. The people in it have names, and want something.",
    "dialogue": "Write a conversation between a teacher and a learner about {subject}. The learner is wrong once, and finds out why.",
    "questions": "Write five questions about {subject}, from easy to hard, each followed by a full answer.",
    "letter": "Write a letter to a friend about {subject}: what it is, why it came up this week, and what you still do not know.",
}

AUDIENCES: Mapping[str, str] = {
    "children": "Your readers are children of about ten: short sentences, everyday words, nothing left unexplained.",
    "students": "Your readers are students who meet this for the first time and want to use it.",
    "professionals": "Your readers work in the field: be exact, give numbers and limits, and leave the basics out.",
    "general": "Your readers are curious grown-ups without training in it.",
}

_ABOUT_TOPIC = "{ways} Begin with the text itself, and write nothing after it."
_ABOUT_EXTRACT = (
    "Here is an extract from a text:\n\n{extract}\n\n{ways} "
    "Do not mention the extract and do not copy its sentences. Begin with the text itself, and write nothing after it."
)
EXTRACT_SUBJECT = "the subject of this extract"


def write_prompt(*, style: str, audience: str, topic: str | None, extract: str | None) -> str:
    """The message that asks for one document: `style` and `audience` are the texts, not the names.

    >>> write_prompt(style="Write about {subject}.", audience="For all.", topic="iron", extract=None)
    'Write about iron. For all. Begin with the text itself, and write nothing after it.'
    """
    ways = f"{style} {audience}".strip()
    template = (_ABOUT_TOPIC if extract is None else _ABOUT_EXTRACT).replace("{ways}", ways)
    given = {"subject": " ".join((topic or EXTRACT_SUBJECT).split()), "extract": extract or ""}
    # At once: what stands in a topic or a stranger's text is not for us to fill.
    return re.sub(r"\{(subject|extract)\}", lambda hole: given[hole[1]], template)
