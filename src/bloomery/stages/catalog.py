"""The steps of a model's life in their order, and where each one stands: a table, so that naming a stage imports nothing.

`load_stage("dedup")` imports one stage's module and gives its STAGE; only then do torch or Polars come along.
"""

import importlib

from bloomery.core.config import suggest
from bloomery.core.errors import ConfigError
from bloomery.core.stage import Stage

STAGES = {
    "crawl": "bloomery.stages.crawl",
    "extract": "bloomery.stages.extract",
    "train_extractor": "bloomery.stages.train_extractor",
    "url_filter": "bloomery.stages.url_filter",
    "filter": "bloomery.stages.filter",
    "dedup": "bloomery.stages.dedup",
    "dedup_paragraphs": "bloomery.stages.dedup_paragraphs",
    "dedup_substrings": "bloomery.stages.dedup_substrings",
    "train_classifier": "bloomery.stages.train_classifier",
    "train_perplexity": "bloomery.stages.train_perplexity",
    "train_relevance": "bloomery.stages.train_relevance",
    "redact": "bloomery.stages.redact",
    "augment": "bloomery.stages.augment",
    "synthesize": "bloomery.stages.synthesize",
    "synthesize_documents": "bloomery.stages.synthesize_documents",
    "decontaminate": "bloomery.stages.decontaminate",
    "mix": "bloomery.stages.mix",
    "train_tokenizer": "bloomery.stages.train_tokenizer",
    "tokenize": "bloomery.stages.tokenize",
    "pretrain": "bloomery.stages.pretrain",
    "sft": "bloomery.stages.sft",
    "collect_pairs": "bloomery.stages.collect_pairs",
    "best_of_n": "bloomery.stages.best_of_n",
    "constitution": "bloomery.stages.constitution",
    "judge_pairs": "bloomery.stages.judge_pairs",
    "reward_model": "bloomery.stages.reward_model",
    "preference": "bloomery.stages.preference",
    "ppo": "bloomery.stages.ppo",
    "grpo": "bloomery.stages.grpo",
    "score_documents": "bloomery.stages.score_documents",
    "evaluate": "bloomery.stages.evaluate",
    "frontier": "bloomery.stages.frontier",
    "scaling_law": "bloomery.stages.scaling_law",
    "ablation": "bloomery.stages.ablation",
    "mixture_law": "bloomery.stages.mixture_law",
    "export": "bloomery.stages.export",
}


def load_stage(name: str) -> Stage:
    """The stage of this name. Raises ConfigError with the nearest known name if there is none."""
    if name not in STAGES:
        raise ConfigError(f'there is no stage "{name}"; {suggest(name, STAGES)}')
    stage: Stage = importlib.import_module(STAGES[name]).STAGE
    return stage
