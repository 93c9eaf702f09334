"""Batches of pairs and of labelled answers, and the loss of a model on them.

Shapes: N answers; of pairs chosen and rejected by turns, so N is twice the number of pairs.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bloomery.align.answers import Answers, answer_logps, pack_answers
from bloomery.align.preference_data import RenderedLabel, RenderedPair
from bloomery.core import dist
from bloomery.model.transformer import Transformer
from bloomery.objectives.kto import Weights, kto_loss, reference_point
from bloomery.objectives.preference import DpoLoss, OfPair, dpo_loss, orpo_loss, simpo_loss
from bloomery.objectives.terms import LossTerms
from bloomery.tokens.chat import Rendered
from bloomery.train.sharding import Parallel, end_evaluation

PairLoss = DpoLoss | Literal["simpo", "orpo"]


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """P pairs: answer 2i is pair i's chosen one, answer 2i + 1 its rejected one. The reference's log-probabilities are float32 [N].

    `probability_P` is the chance that a pair's label is right, NaN where nobody said.
    """

    answers: Answers
    reference_logp_N: Tensor
    probability_P: Tensor

    @property
    def document_BT(self) -> Tensor:
        """Which places hold a token."""
        return self.answers.document_BT


@dataclass(frozen=True, kw_only=True)
class LabelBatch:
    """Labelled answers, and as many mismatched ones (a prompt of theirs with the answer to another) for the reference point."""

    answers: Answers
    reference_logp_N: Tensor
    is_desirable_N: Tensor
    mismatched: Answers
    mismatched_reference_logp_N: Tensor
    z0: Tensor | None = None
    """[]: the reference point of the whole batch, see `with_reference_point`."""

    @property
    def document_BT(self) -> Tensor:
        """Which places hold a token."""
        return self.answers.document_BT


def make_pair_batch(pairs: Sequence[RenderedPair], reference_N2: np.ndarray, device: torch.device | str) -> PairBatch:
    """The tensors of some pairs; reference_N2 holds the reference's log-probabilities (chosen, rejected) of each."""
    answers = pack_answers([answer for pair in pairs for answer in pair.answers], device)
    probability = np.array([math.nan if pair.probability is None else pair.probability for pair in pairs])
    return PairBatch(
        answers=answers, reference_logp_N=_tensor(reference_N2.reshape(-1), device), probability_P=_tensor(probability, device)
    )


def make_label_batch(
    labels: Sequence[RenderedLabel],
    reference_N: np.ndarray,
    mismatched: Sequence[Rendered],
    mismatched_reference_N: np.ndarray,
    device: torch.device | str,
) -> LabelBatch:
    """The tensors of some labelled answers and of their mismatched ones."""
    return LabelBatch(
        answers=pack_answers([example.answer for example in labels], device),
        reference_logp_N=_tensor(reference_N, device),
        is_desirable_N=torch.tensor([example.label for example in labels], device=device),
        mismatched=pack_answers(mismatched, device),
        mismatched_reference_logp_N=_tensor(mismatched_reference_N, device),
    )


def swap_answer(label: RenderedLabel, other: RenderedLabel) -> Rendered:
    """The prompt of one example with the answer of another."""
    begin, other_begin = label.answer.loss_mask.index(True), other.answer.loss_mask.index(True)
    return Rendered(
        label.answer.ids[:begin] + other.answer.ids[other_begin:], label.answer.loss_mask[:begin] + other.answer.loss_mask[other_begin:]
    )


def pair_objective(
    model: Transformer, batch: PairBatch, *, loss: PairLoss, beta: float, label_smoothing: float, gamma: float, nll_weight: float
) -> LossTerms:
    """The named loss of a batch of pairs; `nll_weight` times the chosen answers' mean negative log-probability is added (RPO).

    Where a pair has a probability p, "sigmoid" and "sigmoid_norm" take 1 - p for its label_smoothing: a soft label.
    """
    logp_N, length_N = answer_logps(model, batch.answers)
    policy, length, reference = (OfPair(*x.view(-1, 2).unbind(1)) for x in (logp_N, length_N, batch.reference_logp_N))
    if loss == "simpo":
        terms = simpo_loss(policy, length, beta=beta, gamma=gamma)
    elif loss == "orpo":
        terms = orpo_loss(policy, length, weight=beta)
    else:
        smoothing: float | Tensor = label_smoothing
        if loss in ("sigmoid", "sigmoid_norm"):
            smoothing = torch.where(batch.probability_P.isnan(), label_smoothing, 1 - batch.probability_P)
        terms = dpo_loss(policy, reference, length, beta=beta, loss=loss, label_smoothing=smoothing)
    chosen_nll = -(policy.chosen_N / length.chosen_N.clamp_min(1)).sum()
    more = {"chosen_nll": chosen_nll.detach(), "chosen_length": length.chosen_N.sum(), "rejected_length": length.rejected_N.sum()}
    return LossTerms(terms.loss_sum + nll_weight * chosen_nll if nll_weight else terms.loss_sum, terms.weight, {**terms.metrics, **more})


def label_objective(model: Transformer, batch: LabelBatch, *, beta: float, weights: Weights) -> LossTerms:
    """KTO of a batch of labelled answers whose reference point is known."""
    assert batch.z0 is not None
    logp_N, length_N = answer_logps(model, batch.answers)
    terms = kto_loss(logp_N - batch.reference_logp_N, batch.is_desirable_N, batch.z0, beta=beta, weights=weights)
    return terms._replace(metrics={**terms.metrics, "length": length_N.sum()})


@torch.no_grad()
def with_reference_point(model: Transformer, batches: Sequence[LabelBatch], *, parallel: Parallel) -> list[LabelBatch]:
    """The micro-batches of a step with the reference point of all of them, on all processes, filled in."""
    sums_2 = torch.zeros(2, dtype=torch.float64, device=model.device)
    for i in range(parallel.num_rounds(len(batches))):
        batch = batches[min(i, len(batches) - 1)]  # where processes share weights, one that is done helps the others
        log_ratio_N = answer_logps(model, batch.mismatched).logp_N - batch.mismatched_reference_logp_N
        if i < len(batches):
            sums_2 += torch.stack([log_ratio_N.double().sum(), sums_2.new_tensor(float(len(log_ratio_N)))])
    end_evaluation(model)
    z0 = reference_point(*dist.all_reduce_sum(sums_2)).float()
    return [dataclasses.replace(batch, z0=z0) for batch in batches]


def _tensor(values: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32)).to(device)
