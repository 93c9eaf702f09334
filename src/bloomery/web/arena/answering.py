"""The answers of a campaign, made ahead so that nobody waits: batch after batch, each kept at once, continued after a stop.

Knows torch; whoever only shows votes does not import it.
"""

from collections.abc import Callable
from pathlib import Path

from bloomery.generate.answers import LocalAnswerer
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.device import resolve_device
from bloomery.model.huggingface import load_model
from bloomery.tokens.renderer import load_prompt_renderer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.web.labels.campaigns import Campaign, MadeAnswer, ModelName, add_answers, missing_answers
from bloomery.web.labels.database import Database

BATCH = 16
"""Answers that are made together and kept together."""


def make_answers(
    database: Database,
    campaign: Campaign,
    *,
    folder_of: Callable[[ModelName], Path],
    device: str = "auto",
    stopped: Callable[[], bool] = lambda: False,
    told: Callable[[int], None] = lambda count: None,
) -> int:
    """Makes what is missing, model after model, and returns how many answers that were; `told` hears of each batch.

    An answer that cannot be made (its prompt is too long) is kept as refused, and not compared. Raises DataError for a model that
    cannot be read.
    """
    settings, count = campaign.settings, 0
    params = SamplingParams(max_tokens=settings.max_tokens, temperature=settings.temperature, top_p=settings.top_p)
    for model in campaign.models:
        answerer: LocalAnswerer | None = None
        while not stopped() and (missing := missing_answers(database, campaign, model, at_most=BATCH)):
            if answerer is None:
                folder = folder_of(model)
                tokenizer = load_tokenizer(folder)
                engine = Engine(load_model(folder, device=resolve_device(device)).eval(), tokenizer)
                answerer = LocalAnswerer(engine, load_prompt_renderer(folder, tokenizer), max_rows=BATCH)
            asked = answerer.answer([one.messages for one in missing], params, seeds=[one.seed for one in missing])
            made = [MadeAnswer(missing[number], answer.text.strip(), answer.ending) for number, answer in asked]
            add_answers(database, campaign, sorted(made, key=lambda one: (one.missing.prompt_id, one.missing.sample)))
            count += len(made)
            told(len(made))
    return count
