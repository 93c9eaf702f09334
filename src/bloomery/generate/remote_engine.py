"""A model behind any OpenAI-compatible endpoint: our own server, vLLM's, or a service.

    answer    conversations to texts, which every endpoint can; this is an Answerer
    generate  token ids to token ids, which makes it a RolloutEngine: where the endpoint takes prompts of ids and gives
              back those it drew (`return_token_ids`: ours, and vLLM's from 0.10.2 on), and an error that says so elsewhere

Many requests are in flight at once, failures that may pass are tried again later and later, and what was answered is kept in
an AnswerStore and not asked for again.
"""

import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple  # Any: JSON

from bloomery.core.conversation import Message
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.stage import Endpoint
from bloomery.generate.answer_store import AnswerStore, request_key
from bloomery.generate.answers import Answer, Answered, Ending
from bloomery.generate.engine import Sample
from bloomery.generate.finish import Finish
from bloomery.generate.http_client import ExchangeError, exchange
from bloomery.generate.sampling import SamplingParams

log = logging.getLogger(__name__)

Json = dict[str, Any]


@dataclass
class Spent:
    """What was asked and what it cost so far, in the currency of the prices. Answers from the store cost nothing again."""

    requests: int = 0
    retries: int = 0
    stored: int = 0
    """Requests that the store had answers to."""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost: float = 0.0


TOP_TOKENS = 20
"""The most that OpenAI's API gives of a place."""

PROMPT_CODES = frozenset(
    ("context_length_exceeded", "string_above_max_length", "content_filter", "content_policy_violation", "refused_prompt", "body_too_large")
)
"""What services call errors of one prompt, which say nothing about the others."""


class _PromptRefused(DataError):
    """One prompt is too long, or not to the service's liking."""


class _Reply(NamedTuple):
    number: int
    reply: Json | None
    error: Exception | None


class RemoteEngine:
    """Asks an endpoint for `model`. `store` keeps answers; without one every request is made."""

    def __init__(self, endpoint: Endpoint, model: str, *, store: AnswerStore | None = None) -> None:
        self.endpoint, self.model, self.store = endpoint, model, store
        self.spent = Spent()
        self._key = _read_key(endpoint)
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._context_tokens: int | None = None

    @property
    def context_tokens(self) -> int:
        """The most tokens that a prompt and its answer can have together, as the endpoint says. Raises DataError if it does not."""
        if self._context_tokens is None:
            listed = self._ask("/models", None, "models").get("data")
            rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
            row = next((row for row in rows if row.get("id") == self.model), None)
            if row is None:
                raise DataError(f"{self.endpoint.url}: no model {self.model!r} there; it has {[row.get('id') for row in rows]}")
            if not isinstance(row.get("max_model_len"), int):
                raise DataError(f"{self.endpoint.url}: it does not say how long the context of {self.model!r} is (max_model_len)")
            self._context_tokens = row["max_model_len"]
        return self._context_tokens

    def answer(self, conversations: Sequence[Sequence[Message]], params: SamplingParams, *, seeds: Sequence[int]) -> Iterator[Answered]:
        """See Answerer. Raises DataError for a request that fails for good, unless because of its own prompt; what was answered until
        then is in the store.
        """
        shared = _params(params, self.endpoint.max_tokens_name)
        bodies = [
            {
                "model": self.model,
                "messages": [{"role": m["role"], "content": m["content"]} for m in messages],
                "seed": seed,
                **shared,
            }
            for messages, seed in zip(conversations, seeds, strict=True)
        ]
        for index, reply in self._ask_all("/chat/completions", bodies, _check_text):
            choice = reply["choices"][0]
            counts = reply["usage"]
            yield Answered(index, Answer(choice["text"], choice["ending"], counts["prompt_tokens"], counts["completion_tokens"]))

    def first_tokens(self, conversations: Sequence[Sequence[Message]]) -> Iterator[tuple[int, list[tuple[str, float]] | None]]:
        """Of each conversation's answer the likeliest first tokens with their log-probabilities, as (number, tokens), in the order in
        which they come; None where the service gives no log-probabilities, [] for a prompt that it refuses. Raises as `answer` does.
        """
        asked = {"temperature": 0.0, self.endpoint.max_tokens_name: 1, "logprobs": True, "top_logprobs": TOP_TOKENS}
        bodies = [
            {"model": self.model, "messages": [{"role": m["role"], "content": m["content"]} for m in messages], **asked}
            for messages in conversations
        ]
        for index, reply in self._ask_all("/chat/completions", bodies, _check_first_token):
            tops = reply["choices"][0].get("tops", [])
            yield index, None if tops is None else [(text, logp) for text, logp in tops]

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seeds: Sequence[int]) -> list[Sample]:
        """See RolloutEngine. Log-probabilities are those the endpoint gives: ours after temperature, vLLM's as it was started
        (`--logprobs-mode`). Raises DataError as `answer` does, and for an endpoint that gives no token ids.
        """
        shared = _params(params, "max_tokens") | {"logprobs": params.top_logps, "return_token_ids": True}
        if params.top_logps:
            shared["return_tokens_as_token_ids"] = True
        bodies = [
            {"model": self.model, "prompt": list(prompt), "seed": seed, **shared} for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        samples = {index: _sample(reply["choices"][0], params) for index, reply in self._ask_all("/completions", bodies, _check_tokens)}
        return [samples[i] for i in range(len(prompts))]

    def _ask_all(self, path: str, bodies: Sequence[Json], check: Callable[[Json], Json]) -> Iterator[tuple[int, Json]]:
        keys = [request_key({"path": path, **body}) for body in bodies]
        waiting: list[int] = []
        for i, key in enumerate(keys):
            stored = self.store.get(key) if self.store is not None else None
            if stored is None:
                waiting.append(i)
            else:
                self.spent.stored += 1
                yield i, stored
        todo, replies, stop = iter(waiting), queue.Queue[_Reply](), threading.Event()

        def work() -> None:
            while not stop.is_set():
                with self._lock:
                    i = next(todo, None)
                if i is None:
                    return
                try:
                    replies.put(_Reply(i, self._ask_and_keep(path, bodies[i], keys[i], check, stop), None))
                except Exception as error:  # noqa: BLE001  (raised again where the answers are read)
                    stop.set()
                    replies.put(_Reply(i, None, error))

        # Daemons: whoever presses Ctrl-C does not wait for what is in flight.
        for _ in range(min(self.endpoint.in_flight, len(waiting))):
            threading.Thread(target=work, daemon=True, name="bloomery-remote").start()
        try:
            for _ in waiting:
                done = replies.get()
                if done.error is not None:
                    raise done.error
                assert done.reply is not None
                yield done.number, done.reply
        finally:
            stop.set()

    def _ask_and_keep(self, path: str, body: Json, key: str, check: Callable[[Json], Json], stop: threading.Event) -> Json:
        try:
            reply = self._ask(path, body, key, check, stop)
        except _PromptRefused as error:
            if "messages" not in body:
                raise
            reply = {"choices": [{"text": str(error), "ending": "refused"}], "usage": _usage({})}
        counts = reply["usage"]
        with self._lock:
            self.spent.prompt_tokens += counts["prompt_tokens"]
            self.spent.answer_tokens += counts["completion_tokens"]
            prices = self.endpoint.price_per_million_prompt_tokens, self.endpoint.price_per_million_answer_tokens
            self.spent.cost += (counts["prompt_tokens"] * prices[0] + counts["completion_tokens"] * prices[1]) / 1e6
        if self.store is not None:
            self.store.put(key, reply)
        return reply

    def _ask(
        self, path: str, body: Json | None, key: str, check: Callable[[Json], Json] = dict, stop: threading.Event | None = None
    ) -> Json:
        url = self.endpoint.url.rstrip("/") + path
        for attempt in range(1, self.endpoint.attempts + 1):
            self._wait_for_turn(stop)
            with self._lock:
                self.spent.requests += 1
                self.spent.retries += attempt > 1
            try:
                return check(exchange(url, body, key=self._key, timeout_seconds=self.endpoint.timeout_seconds))
            except ExchangeError as error:
                if not error.may_pass or attempt == self.endpoint.attempts:
                    tries = f" after {attempt} attempts" if attempt > 1 else ""
                    raise (_PromptRefused if _is_of_prompt(error) else DataError)(f"{url}: {error}{tries}") from error
                wait = self._backoff(error, attempt, key)
                log.info("%s: %s; trying again in %.1f s", url, error, wait)
                if error.status == 429:
                    with self._lock:  # everybody waits: the others would be told the same
                        self._not_before = max(self._not_before, time.monotonic() + wait)
                _sleep(wait, stop)
        raise AssertionError("the last attempt returns or raises")

    def _wait_for_turn(self, stop: threading.Event | None) -> None:
        while (wait := self._not_before - time.monotonic()) > 0:
            _sleep(wait, stop)

    def _backoff(self, error: ExchangeError, attempt: int, key: str) -> float:
        # Half of the wait is spread by the request's own hash, so that requests that failed together do not come back together.
        spread = int.from_bytes(hashlib.blake2b(f"{key}/{attempt}".encode(), digest_size=4).digest(), "big") / 2**32
        wait = self.endpoint.first_wait_seconds * 2.0 ** (attempt - 1) * (0.5 + spread / 2)
        return min(max(wait, error.wait_seconds or 0.0), self.endpoint.max_wait_seconds)


def _is_of_prompt(error: ExchangeError) -> bool:
    # vLLM gives no code, but OpenAI's words.
    return error.status == 413 or error.code in PROMPT_CODES or "maximum context length" in str(error)


def _sleep(seconds: float, stop: threading.Event | None) -> None:
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise DataError("stopped")  # nobody reads it: whoever asked has gone


def _read_key(endpoint: Endpoint) -> str:
    if not endpoint.key_variable:
        return ""
    key = os.environ.get(endpoint.key_variable, "")
    if not key:
        raise ConfigError(
            f"key_variable: the environment variable {endpoint.key_variable} is not set; it should hold the key of {endpoint.url}"
        )
    return key


def _params(params: SamplingParams, max_tokens_name: str) -> Json:
    # What stands at its default is left out: services of others do not know all of it.
    body: Json = {max_tokens_name: params.max_tokens, "temperature": params.temperature}
    extra = {
        "top_p": (params.top_p, 1.0),
        "top_k": (params.top_k, 0),
        "min_p": (params.min_p, 0.0),
        "repetition_penalty": (params.repetition_penalty, 1.0),
        "stop": (list(params.stop), []),
        "stop_token_ids": (list(params.stop_tokens), []),
    }
    return body | {name: value for name, (value, default) in extra.items() if value != default}


def _check_text(reply: Json) -> Json:
    """A chat completion, cut down to what is kept. Raises ExchangeError for anything else."""
    try:
        choice = reply["choices"][0]
        text = choice["message"].get("content") or ""
        reason = choice.get("finish_reason")
        if not isinstance(text, str):
            raise TypeError(f"content is {type(text).__name__}")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ExchangeError(f"not a chat completion ({error!r}): {str(reply)[:200]}") from error
    ending: Ending = "length" if reason == "length" else "filtered" if reason == "content_filter" else "end"
    return {"choices": [{"text": text, "ending": ending}], "usage": _usage(reply)}


def _check_first_token(reply: Json) -> Json:
    """The likeliest tokens in the first place of a chat completion, or None where it has none. Raises ExchangeError for anything else."""
    text = _check_text(reply)
    try:
        places = (reply["choices"][0].get("logprobs") or {}).get("content")
        tops = [[top["token"], float(top["logprob"])] for top in places[0]["top_logprobs"]] if places else None
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ExchangeError(f"not a chat completion with log-probabilities ({error!r}): {str(reply)[:200]}") from error
    return {"choices": [{**text["choices"][0], "tops": tops or None}], "usage": text["usage"]}


def _check_tokens(reply: Json) -> Json:
    """A completion with token ids, cut down to what is kept. Raises ExchangeError, or DataError where there are no ids."""
    try:
        choice = reply["choices"][0]
        logprobs = choice["logprobs"]
        kept = {
            "token_ids": choice.get("token_ids"),
            "logps": [float(logp) for logp in logprobs["token_logprobs"]],
            "tops": logprobs.get("top_logprobs") or [],
            "finish_reason": choice.get("finish_reason"),
            "stop_reason": choice.get("stop_reason"),
        }
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ExchangeError(f"not a completion with log-probabilities ({error!r}): {str(reply)[:200]}") from error
    ids = kept["token_ids"]
    if not isinstance(ids, list) or len(ids) != len(kept["logps"]):
        raise DataError(
            "the endpoint gives no token ids (return_token_ids), which rollouts need: `bloomery serve` and vLLM from 0.10.2 on do. "
            "Ask it for texts instead (RemoteEngine.answer)."
        )
    return {"choices": [kept], "usage": _usage(reply)}


def _usage(reply: Json) -> Json:
    usage = reply.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return {name: int(counts.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}


def _sample(choice: Json, params: SamplingParams) -> Sample:
    finish: Finish = "length" if choice["finish_reason"] == "length" else "end" if choice["stop_reason"] is None else "stop"
    tops = [
        [(int(name.removeprefix("token_id:")), float(logp)) for name, logp in list(top.items())[: params.top_logps]]
        for top in choice["tops"]
    ]
    return Sample(choice["token_ids"], choice["logps"], finish, tops if params.top_logps else [])
