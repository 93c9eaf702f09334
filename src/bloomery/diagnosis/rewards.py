"""Checks on learning from rewards: hacking, run-away from the reference, entropy, groups that teach nothing."""

import math

from bloomery.diagnosis.columns import Columns, Curve, curve_of, ends, late
from bloomery.diagnosis.finding import Facts, Finding

RL_STAGES = ("ppo", "grpo")
MIN_ROLLOUTS = 8
HACKED_ERRORS = 2.0
"""Standard errors by which held-out gold must have fallen below where it began or was best, while the reward rose by as many."""
KL_A_TOKEN = 1.0
KL_AN_ANSWER = 5.0
"""Nats from the reference, both: healthy runs here end at 0.1 to 0.35 a token. Gao 2022 (2210.10760) sees gold fall from 5 to 10 on."""
ENTROPY_LEFT = 0.1
"""Of the first entropy. Healthy verifier runs here keep 0.3: an answer that is right may be said in few ways, but in more than one."""
LOW_ENTROPY = 0.1
"""Nats a token."""
SILENT = 0.9
"""Share of prompts whose answers are all worth the same."""
CUT = 0.2
"""Share of answers that end by themselves, below which the length limit ends them."""
LONGER = 2.0
LEFT_VARIETY = 1 / 3
"""Answers so many times as long, or with so much of their different word pairs left, while the reward rises and no gold is measured."""


def find_hacking(columns: Columns, facts: Facts) -> list[Finding]:
    """A reward that rises while gold, which it stands for, falls; without gold, one that rises as answers grow or repeat themselves."""
    if facts.stage not in RL_STAGES:
        return []
    kind = "validation" if len(curve_of(columns, "validation/gold")) >= 3 else "rollout"
    gold, reward = curve_of(columns, f"{kind}/gold"), curve_of(columns, f"{kind}/reward")
    if kind == "validation" and len(gold) >= 3 and len(reward) >= 3:
        return _judge_gold(gold, reward, _errors(columns, "gold"), _errors(columns, "reward"))
    if len(gold) >= MIN_ROLLOUTS:
        spread = _spread(columns, "gold"), _spread(columns, "reward")
        return _judge_gold(gold, reward, *spread)
    return _judge_form(columns)


def find_kl_runaway(columns: Columns, facts: Facts) -> list[Finding]:
    """A policy that leaves its reference behind."""
    kl, length = curve_of(columns, "rollout/kl"), curve_of(columns, "rollout/length")
    if facts.stage not in RL_STAGES or len(kl) < MIN_ROLLOUTS or not len(length):
        return []
    tail = slice(-max(2, len(kl) // 8), None)
    last, tokens = float(kl.values[tail].mean()), float(length.values[tail].mean())
    if last < KL_AN_ANSWER or last / max(tokens, 1.0) < KL_A_TOKEN:
        return []
    began = int(kl.steps[(kl.values > KL_AN_ANSWER).argmax()])
    return [Finding(
        code="kl_runaway", severity="error", step=began, evidence={"kl": last, "kl_per_token": last / max(tokens, 1.0), "length": tokens},
        title=f"The policy is {last:.3g} nats an answer ({last / max(tokens, 1.0):.2g} a token) from its reference, from step {began} on",
        remedy="Raise kl_weight or steer it (kl_target), lower the learning rate, stop earlier; do not trust the reward out there.",
    )]  # fmt: skip


def find_entropy_collapse(columns: Columns, facts: Facts) -> list[Finding]:
    """A policy that has only one thing left to say."""
    entropy = curve_of(columns, "train/entropy")
    if facts.stage not in RL_STAGES or len(entropy) < MIN_ROLLOUTS:
        return []
    first, last = ends(entropy.values, share=0.1)
    if not (last < ENTROPY_LEFT * first and last < LOW_ENTROPY):
        return []
    gone = int(entropy.steps[(entropy.values < ENTROPY_LEFT * first).argmax()])
    return [Finding(
        code="entropy_collapse", severity="error", step=gone, evidence={"first": first, "last": last},
        title=f"The entropy of what it says fell from {first:.2g} to {last:.2g} nats a token: nothing is tried any more",
        remedy="Add entropy_weight = 0.01 or a kl_weight, raise clip_high above clip_low (DAPO), lower the learning rate.",
    )]  # fmt: skip


def find_silence(columns: Columns, facts: Facts) -> list[Finding]:
    """Rollouts from which nothing can be learned: answers are all worth the same, or none has a worth."""
    if facts.stage not in RL_STAGES:
        return []
    silent, spread = curve_of(columns, "rollout/groups_without_spread"), curve_of(columns, "rollout/reward_deviation")
    share = float(late(silent.values).mean()) if len(silent) >= MIN_ROLLOUTS // 2 else 0.0
    flat = len(spread) >= MIN_ROLLOUTS // 2 and float(late(spread.values).max()) == 0.0
    if share < SILENT and not flat:
        return []
    return [Finding(
        code="no_reward_spread", severity="error", evidence={"groups_without_spread": share},
        title="All answers to a prompt are worth the same" + ("" if flat else f" for {100 * share:.0f} % of the prompts")
        + ": comparing them teaches nothing",
        remedy="Ask easier or harder prompts, more answers each (group_size) at temperature 1; check that the reward reads the answer.",
    )]  # fmt: skip


def find_cut_answers(columns: Columns, facts: Facts) -> list[Finding]:
    """Answers that the length limit ends."""
    stopped = curve_of(columns, "rollout/stopped")
    if facts.stage not in RL_STAGES or len(stopped) < MIN_ROLLOUTS // 2:
        return []
    share = float(late(stopped.values).mean())
    if share > CUT:
        return []
    return [Finding(
        code="answers_cut", severity="warning", evidence={"stopped": share},
        title=f"Only {100 * share:.0f} % of the answers end by themselves; max_tokens cuts the others off",
        remedy="Raise max_tokens, give unfinished answers a low reward (unstopped_reward), or fine-tune first, on answers that end.",
    )]  # fmt: skip


def _judge_gold(gold: Curve, reward: Curve, gold_error: float, reward_error: float) -> list[Finding]:
    best = int(gold.values.argmax())
    tail = slice(-max(1, len(gold) // 8), None)
    top, last = float(gold.values[best]), float(gold.values[tail].mean())
    risen = float(reward.values[tail].mean() - reward.values[min(best, len(reward) - 1)])
    if not (top - last > HACKED_ERRORS * math.sqrt(2) * gold_error and risen > HACKED_ERRORS * math.sqrt(2) * reward_error):
        return []
    return [Finding(
        code="reward_hacking", severity="error", step=int(gold.steps[best]),
        evidence={"gold_best": top, "gold_last": last, "gold_error": gold_error, "reward_rise": risen},
        title=f"The reward rose by {risen:.3g} since step {int(gold.steps[best])}, while gold, which it stands for, fell from {top:.3g} "
        f"to {last:.3g}",
        remedy="Stop at the best gold (stop_checks does), raise kl_weight, train the reward model on more pairs, also of this policy's "
        "answers; read samples to see what it learned to please with.",
    )]  # fmt: skip


def _judge_form(columns: Columns) -> list[Finding]:
    """Without gold: the reward rises, and answers at least double their length or lose most of their variety."""
    reward, length = curve_of(columns, "rollout/reward"), curve_of(columns, "rollout/length")
    variety = curve_of(columns, "rollout/distinct_2")
    if min(len(reward), len(length), len(variety)) < MIN_ROLLOUTS:
        return []
    (r0, r1), (l0, l1), (v0, v1) = ends(reward.values), ends(length.values), ends(variety.values)
    longer, kept = l1 / max(l0, 1e-9), v1 / max(v0, 1e-9)
    if r1 - r0 <= HACKED_ERRORS * _spread(columns, "reward") or not (longer > LONGER or kept < LEFT_VARIETY):
        return []
    return [Finding(
        code="reward_hacking", severity="warning", evidence={"reward_rise": r1 - r0, "longer": longer, "variety_kept": kept},
        title=f"The reward rose by {r1 - r0:.3g} while answers became {longer:.1f} times as long and kept {100 * kept:.0f} % of their "
        "variety: it may pay for form",
        remedy="Read samples; measure a `gold` beside the reward; penalise length or repetition; raise kl_weight.",
    )]  # fmt: skip


def _errors(columns: Columns, name: str) -> float:
    values = curve_of(columns, f"validation/{name}_error").values
    return float(values.max()) if len(values) else math.inf


def _spread(columns: Columns, name: str) -> float:
    """A standard error of the last rollouts' mean, as neighbours differ."""
    values = curve_of(columns, f"rollout/{name}").values
    if len(values) < MIN_ROLLOUTS:
        return math.inf
    differences = late(values[1:] - values[:-1])
    return float(differences.std() / math.sqrt(2) / math.sqrt(max(1, len(values) // 8)))
