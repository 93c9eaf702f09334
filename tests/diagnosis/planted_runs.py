"""A small language, a tokenizer of it, and trainings of a second in which faults can be planted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bloomery.core.errors import BloomeryError
from bloomery.core.metrics import MetricsLog, read_metrics
from bloomery.core.stage import Runtime
from bloomery.diagnosis.diagnose import diagnose
from bloomery.diagnosis.finding import Facts, Finding
from bloomery.model.config import ModelShape
from bloomery.stages.pretrain import PretrainConfig, pretrain
from bloomery.tokens.shards import write_manifest, write_shard
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.train.checkpoint import Snapshots
from bloomery.train.fit import fit

WORDS = [
    "the", "a", "cat", "dog", "mat", "sat", "ran", "to", "on", "by", "and", "red",
    "blue", "house", "sea", "hill", "saw", "ate", "big", "old", "man", "woman", "boy", "girl",
    "tree", "bird", "fish", "door", "road", "sun", "moon", "day", "night", "was", "is", "went",
    "came", "from", "with",
]  # fmt: skip
SHAPE = ModelShape(depth=1, dim=16, head_dim=8, mlp_dim=32)


def write_texts(count: int, *, seed: int, words: Sequence[str] = WORDS, shortest: int = 20, longest: int = 60) -> list[str]:
    """Texts of a language in which every word is followed by a few others."""
    rng = np.random.default_rng(seed)
    follows = np.random.default_rng(99).dirichlet(np.full(len(words), 0.08), len(words))
    texts = []
    for _ in range(count):
        found = [int(rng.integers(len(words)))]
        for _ in range(int(rng.integers(shortest, longest))):
            found.append(int(rng.choice(len(words), p=follows[found[-1]])))
        texts.append(" ".join(words[i] for i in found))
    return texts


def write_tokens(folder: Path, tokenizer: Path, train: Sequence[str], held_out: Sequence[str], *, sha256: str = "") -> Path:
    """A tokens artifact's folder."""
    known = load_tokenizer(tokenizer)
    sizes = {}
    for split, texts in (("train", train), ("validation", held_out)):
        (folder / split).mkdir(parents=True)
        ids = [[known.bos_id, *known.encode(text), known.end_id] for text in texts]
        write_shard(folder / split / "00000", ids, vocab_size=known.vocab_size)
        sizes[split] = [sum(map(len, texts))]
    write_manifest(folder, tokenizer_sha256=sha256 or known.sha256, vocab_size=known.vocab_size, text_bytes=sizes)
    return folder


@dataclass
class Run:
    """A training and what the doctor says of its log."""

    out: Path
    rows: list[dict[str, Any]]
    facts: Facts

    def findings(self, **measured: float) -> list[Finding]:
        return diagnose(self.rows, replace(self.facts, measured=measured))

    def codes(self, **measured: float) -> list[str]:
        return [finding.code for finding in self.findings(**measured)]


Plant = Callable[[Any, Any], Any]
"""Changes the state of a training, or gives another Run for it, before it begins."""


def train(
    out: Path,
    corpus: Path | Sequence[Path],
    language: Path,
    *,
    plant: Plant | None = None,
    init: Path | None = None,
    words: str = "",
    **settings: Any,
) -> Run:
    """A pretraining of some hundred milliseconds, made by the stage itself; `plant` is called where `fit` would begin."""
    usual = {"model": SHAPE, "tokens": 512 * 90, "sequence_tokens": 64, "batch_tokens": 512, "num_validations": 4, "num_samples": 0}
    usual |= {"learning_rate": 0.02, "embedding_learning_rate": 0.02, "validation_tokens": 2048, "precision": "fp32"}
    config = PretrainConfig(**{**usual, **settings})
    log = MetricsLog(out.with_name("metrics.jsonl"))

    class Planted(BloomeryError):
        pass

    def trial(state, run, config):
        changed = plant(state, run) or run
        fit(state, changed, config, snapshots=Snapshots(out / ".scratch", settings=""), runtime=Runtime(metrics=log, quiet=True))
        raise Planted

    try:
        runtime = Runtime(metrics=log, quiet=True, trial=trial if plant else None)
        metrics = pretrain(config, tokens=corpus, tokenizer=language, init=init, out=out, runtime=runtime)
    except (Planted, BloomeryError) as error:
        assert plant is not None, error
        metrics = {}
    facts = Facts(
        stage="pretrain",
        node="base",
        config=config.model_dump(mode="json"),
        has_init=init is not None,
        vocab_size=load_tokenizer(language).vocab_size,
        params=int(metrics.get("params", 0)),
        record=metrics,
        finished=bool(metrics),
    )
    return Run(out, read_metrics(log.path), facts)
