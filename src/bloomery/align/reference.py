"""What a model said of answers before it was trained on them, computed once and kept.

The reference never changes, so neither do its log-probabilities. They are kept in the user's cache folder, under a hash
of all that they follow from: the model's weights and shape, what it computes in, and the token ids of every prompt and
answer (in which data, template and tokenizer are). Another beta, loss, seed or split of the same answers finds them there;
so does a run that was killed. The reference's weights need not stay in memory, and a third of the forward passes is saved.
`$BLOOMERY_REFERENCE_CACHE` names another folder for them, on a disk that machines share, for example.

Shapes: N answers.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from bloomery.align.answers import answer_logps, batches_by_length, pack_answers
from bloomery.core import dist
from bloomery.core.cached_arrays import cache_folder, find_arrays, keep_arrays
from bloomery.core.files import sha256_file
from bloomery.core.metrics import Bar
from bloomery.core.stage import Runtime
from bloomery.model.device import keep_freed_memory
from bloomery.model.transformer import Transformer
from bloomery.model.weights import weight_files
from bloomery.tokens.chat import Rendered

FORMAT = 1
"""Raised when the same weights and answers give other figures than before: what was kept until then is not found any more."""
BATCH_TOKENS = 8192
"""Tokens that go through the reference at a time, wherever it runs: figures must not depend on how a run is launched."""


def cached_reference_logps(
    answers: Sequence[Rendered],
    *,
    checkpoint: Path,
    computed_in: str,
    make_model: Callable[[], Transformer],
    runtime: Runtime,
) -> np.ndarray:
    """The log-probability of each answer under the model of `checkpoint`, float32 [N], from the cache if they are there.

    `make_model` is called only if they are not; `computed_in` names dtype and device. Every process of a group must call this
    together, and gets all figures.
    """
    if not answers:
        return np.zeros(0, np.float32)
    digests = [_digest(answer) for answer in answers]
    unique = dict(sorted(dict(zip(digests, answers, strict=True)).items()))  # in no order but their own
    key = reference_key(list(unique), checkpoint=checkpoint, computed_in=computed_in)
    folder = Path(os.environ.get("BLOOMERY_REFERENCE_CACHE") or cache_folder() / "reference")
    found = find_arrays(key, ("logp",), folder=folder)
    if dist.maximum(found is None):  # one that has them waits for those that have not
        keep_freed_memory()
        with runtime.progress(len(unique), "reference answers") as bar:
            found = {"logp": reference_logps(make_model(), list(unique.values()), bar=bar)}
        keep_arrays(key, found, folder=folder)
    assert found is not None
    number = {digest: i for i, digest in enumerate(unique)}
    logp_N: np.ndarray = np.asarray(found["logp"])[[number[digest] for digest in digests]]
    return logp_N


def reference_key(digests: Sequence[bytes], *, checkpoint: Path, computed_in: str) -> str:
    """The hash of all that the log-probabilities of answers follow from."""
    found = hashlib.sha256(f"{FORMAT}/{BATCH_TOKENS}/{computed_in}".encode())
    for path in (checkpoint / "config.json", *weight_files(checkpoint)):
        found.update(sha256_file(path).encode())
    for digest in digests:
        found.update(digest)
    return found.hexdigest()[:32]


@torch.no_grad()
def reference_logps(model: Transformer, answers: Sequence[Rendered], *, bar: Bar | None = None) -> np.ndarray:
    """The model's log-probability of each answer, float32 [N]. Each process computes a share and all get the whole.

    An answer's figure does not depend on which others share its batch, beyond rounding.
    """
    device = model.device
    found_N = torch.zeros(len(answers), device=device)
    batches = batches_by_length([len(answer.ids) - 1 for answer in answers], BATCH_TOKENS)
    for indices in batches[dist.rank() :: dist.world_size()]:
        found_N[indices] = answer_logps(model, pack_answers([answers[i] for i in indices], device)).logp_N
        if bar is not None:
            bar.advance(len(indices) * dist.world_size())
    logp_N: np.ndarray = dist.all_reduce_sum(found_N).cpu().numpy()
    return logp_N


def _digest(answer: Rendered) -> bytes:
    ids, mask = np.asarray(answer.ids, np.int64), np.asarray(answer.loss_mask, np.uint8)
    return hashlib.blake2b(ids.tobytes() + mask.tobytes(), digest_size=16).digest()
