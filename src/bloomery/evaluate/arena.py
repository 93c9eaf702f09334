"""Battles between models: two answers to one prompt side by side, without names, and somebody says which is better.

Who judges is a function from a Duel to a side: a score (a reward, a gold checker), a model that is asked in both orders, or a
person at a terminal. Which answer stands left is a seeded coin, so that a judge who likes the left one favours nobody.
`ratings.py` makes ratings of the battles; the web arena shows the same duels.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple  # Any: a row of JSON

from bloomery.evaluate.ratings import Battle
from bloomery.generate.engine import RolloutEngine
from bloomery.generate.letters import Chooser
from bloomery.generate.sampling import SamplingParams
from bloomery.generate.verify import verify
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import Tokenizer

Verdict = Literal["left", "right", "tie", "skip"]
"""skip: undecided, no battle comes of it."""


class Pairing(NamedTuple):
    """Who meets whom on which prompt."""

    prompt: int
    left: str
    right: str


class Duel(NamedTuple):
    """What a judge sees: the prompt, two answers, and the prompt's row, which may hold the right answer."""

    prompt: str
    left: str
    right: str
    row: Mapping[str, Any]


Judge = Callable[[Duel], Verdict]


class Left(Exception):
    """The judge has had enough; what was decided so far counts."""


JUDGE_PROMPT = (
    "Which answer is better? Judge by whether it is right, helpful and to the point, not by its length or its place.\n\n"
    "Question:\n{prompt}\n\nAnswer A:\n{left}\n\nAnswer B:\n{right}\n\nReply with one letter: A, B, or C if neither is better."
)
JUDGE_TOKENS = 8


def plan_pairings(names: Sequence[str], num_prompts: int, *, seed: int) -> list[Pairing]:
    """Every two players once on every prompt, sides by coin, in a shuffled order of which every beginning is a fair sample.

    >>> plan_pairings(["a", "b"], 2, seed=0) == plan_pairings(["a", "b"], 2, seed=0)
    True
    """
    found = []
    for prompt in range(num_prompts):
        for a, b in combinations(names, 2):
            coin = random.Random(f"arena/{seed}/{prompt}/{a}/{b}")
            swapped = coin.random() < 0.5
            found.append(Pairing(prompt, b, a) if swapped else Pairing(prompt, a, b))
    shuffler = random.Random(f"arena/{seed}")
    shuffler.shuffle(found)
    return found


def hold_battles(
    pairings: Sequence[Pairing],
    *,
    rows: Sequence[Mapping[str, Any]],
    prompts: Sequence[str],
    answers: Mapping[str, Sequence[str]],
    judge: Judge,
    done: Sequence[Battle] = (),
) -> Iterator[Battle]:
    """The battles of these pairings, one by one, but those already `done`; equal answers are a tie that nobody is asked about.

    `answers[name][prompt]` is what a player said. Ends early when the judge raises Left.
    """
    known = {(battle.prompt, frozenset((battle.left, battle.right))) for battle in done}
    for prompt, left, right in pairings:
        if (prompt, frozenset((left, right))) in known:
            continue
        ours, theirs = answers[left][prompt], answers[right][prompt]
        try:
            verdict = "tie" if ours == theirs else judge(Duel(prompts[prompt], ours, theirs, rows[prompt]))
        except Left:
            return
        if verdict != "skip":
            yield Battle(prompt, left, right, verdict)


def score_judge(score: Callable[[Mapping[str, Any], str], float], *, margin: float = 0.0) -> Judge:
    """The answer with the higher score(row, answer) wins; within `margin` it is a tie."""

    def judge(duel: Duel) -> Verdict:
        difference = score(duel.row, duel.left) - score(duel.row, duel.right)
        return "tie" if abs(difference) <= margin else "left" if difference > 0 else "right"

    return judge


def gold_score(row: Mapping[str, Any], answer: str) -> float:
    """2 for the right answer, 1 for a wrong one in the asked format, 0 else (see generate/verify.py)."""
    verdict = verify(row, answer)
    return 2.0 if verdict.correct else 1.0 if verdict.well_formed else 0.0


def model_judge(engine: RolloutEngine, tokenizer: Tokenizer, *, question: str = JUDGE_PROMPT) -> Judge:
    """Asks a chat model in both orders; it has decided only if it names the same answer in both, else it is a tie.

    Models prefer a place (arXiv:2306.05685, sec. 3.3). A reply without a letter is no decision.
    """
    params = SamplingParams(max_tokens=JUDGE_TOKENS, temperature=0.0)

    def judge(duel: Duel) -> Verdict:
        orders = ((duel.left, duel.right), (duel.right, duel.left))
        texts = [question.format(prompt=duel.prompt, left=first, right=second) for first, second in orders]
        asked = [render(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True).ids for text in texts]
        letters = [_letter(tokenizer.decode(sample.tokens)) for sample in engine.generate(asked, params, seeds=[0, 0])]
        return "left" if letters == ["A", "B"] else "right" if letters == ["B", "A"] else "tie"

    return judge


def likelihood_judge(chooser: Chooser, *, question: str = JUDGE_PROMPT, tie_margin: float = 0.05) -> Judge:
    """Asks how likely a chat model says A rather than B, in both orders: the mean has no preference of place, and swapped sides give
    the swapped verdict. Within `tie_margin` of one half it is a tie.
    """

    def judge(duel: Duel) -> Verdict:
        orders = ((duel.left, duel.right), (duel.right, duel.left))
        asked = [question.format(prompt=duel.prompt, left=first, right=second) for first, second in orders]
        there, back = chooser.choose([[{"role": "user", "content": text}] for text in asked])
        chance = (there + 1.0 - back) / 2
        return "tie" if abs(chance - 0.5) <= tie_margin else "left" if chance > 0.5 else "right"

    return judge


def person_judge(*, read: Callable[[str], str], write: Callable[[str], None]) -> Judge:
    """Shows a duel in the terminal and asks who is better. Raises Left at the end of input, on Ctrl-C or "q"."""
    keys: dict[str, Verdict] = {"l": "left", "r": "right", "t": "tie", "s": "skip"}

    def judge(duel: Duel) -> Verdict:
        for title, text in (("Prompt", duel.prompt), ("Left", duel.left), ("Right", duel.right)):
            write(f"\n--- {title}\n{_visible(text)}\n")
        while True:
            try:
                key = read("\nbetter: l(eft), r(ight), t(ie); s(kip), q(uit)> ").strip().lower()[:1]
            except (EOFError, KeyboardInterrupt) as error:
                raise Left from error
            if key == "q":
                raise Left
            if key in keys:
                return keys[key]

    return judge


def _letter(reply: str) -> str:
    found = re.search(r"\b([ABC])\b", reply)
    return found.group(1) if found else ""


def _visible(text: str) -> str:
    # What a model writes must not move the cursor or recolour the terminal.
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text) or "(nothing)"
