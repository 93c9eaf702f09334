"""A bloomery checkpoint as a model of lm-eval (EleutherAI's lm-evaluation-harness), so that all of its tasks run on it.

Requests with the same context are scored in one packed row (packed.py), generation is our own engine's. Needs
`pip install 'bloomery[lm-eval]'`; `bloomery lm-eval MODEL --tasks ...` is lm-eval's command line with this model in it.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: lm-eval is not typed

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from bloomery.core.errors import ConfigError
from bloomery.evaluate.packed import Text, score_texts
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.generate.text import answer_text
from bloomery.model.huggingface import load_model
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import load_tokenizer

NAME = "bloomery"
DEFAULT_ANSWER_TOKENS = 256
"""lm-eval's own default for its Hugging Face backend."""


class BloomeryLM(TemplateLM):  # type: ignore[misc]  # lm-eval is not typed
    """`pretrained` is a Hugging Face folder. With `add_bos_token` a text begins with the token that begins texts, if there is one."""

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        add_bos_token: bool = True,
    ) -> None:
        super().__init__()
        # Batches are made by tokens here; lm-eval's two sizes are taken and have no effect.
        folder = Path(pretrained)
        # lm-eval's command line says cuda:0 where nothing is said.
        where = device if device and device != "auto" and (torch.cuda.is_available() or device == "cpu") else _default_device()
        kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if dtype not in kinds:
            raise ConfigError(f"dtype={dtype}: expected one of {', '.join(kinds)}")
        self._folder = folder
        self._tokens = load_tokenizer(folder)
        self._engine = Engine(load_model(folder, device=where, dtype=kinds[dtype]).eval(), self._tokens)
        self._begin = self._tokens.begin if add_bos_token else []
        self._has_marks = False
        self._device = torch.device(where)

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return self._tokens.end_id

    @property
    def prefix_token_id(self) -> int:
        """What the first token is predicted from where there is no context."""
        return self._tokens.end_id if self._tokens.bos_id is None else self._tokens.bos_id

    @property
    def max_length(self) -> int:
        """The model's context in tokens."""
        return self._engine.context_tokens

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests."""
        return f"{self._folder.resolve()}/{self._tokens.sha256[:16]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """Ids; marks in it are special tokens only if the text came out of the chat template."""
        if self._has_marks and string.startswith(self._tokens.decode(self._tokens.begin, skip_special=False) or "<|"):
            return self._encode_marked(string)
        begin = [] if add_special_tokens is False else self._begin
        return [*begin, *self._tokens.encode(string)]

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text with its marks spelled out."""
        self._has_marks = True
        messages = [{"role": m["role"], "content": m["content"]} for m in chat_history]
        ids = render(self._tokens, messages, add_generation_prompt=add_generation_prompt).ids  # type: ignore[arg-type]  # checked there
        return self._tokens.decode(ids, skip_special=False)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The name that lm-eval records: there is one template."""
        return NAME if chat_template else None

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in windows as long as the context that predict each token once."""
        items: list[list[Text]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            (string,) = request.args
            windows = get_rolling_token_windows(
                token_list=self._tokens.encode(string), prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            for context, predicted in map(make_disjoint_window, windows):
                items.append([Text([*context, *predicted], len(context))])
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, found in zip(owners, score_texts(self._engine.model, items), strict=True):
            totals[owner] += found[0].logp
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers; those with the same settings are generated together."""
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        for numbers in groups.values():
            settings = normalize_gen_kwargs(dict(requests[numbers[0]].args[1]), DEFAULT_ANSWER_TOKENS)
            eos = self._tokens.decode([self._tokens.end_id], skip_special=False)
            stops = [stop for stop in handle_stop_sequences(settings.get("until"), eos=eos) if stop and stop != eos]
            max_tokens = int(settings["max_gen_toks"])
            params = SamplingParams(
                max_tokens=max_tokens,
                temperature=float(settings.get("temperature", 0.0)) if settings.get("do_sample") else 0.0,
                top_p=float(settings.get("top_p", 1.0)),
                top_k=int(settings.get("top_k", 0)) if settings.get("do_sample") else 0,
                stop=tuple(stops),
            )
            room = max(1, self.max_length - max_tokens)
            prompts = [self.tok_encode(requests[number].args[0])[-room:] for number in numbers]
            for number, sample in zip(numbers, self._engine.generate(prompts, params, seeds=numbers), strict=True):
                answers[number] = answer_text(self._tokens, sample.tokens, stop=stops)
                self.cache_hook.add_partial("generate_until", requests[number].args, answers[number])
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]], disable_tqdm: bool = False, **options: Any
    ) -> list[tuple[float, bool]]:
        rows: dict[tuple[int, ...], list[int]] = {}
        for number, (_, context, _) in enumerate(requests):
            rows.setdefault(tuple(context), []).append(number)
        items = [[Text([*requests[number][1], *requests[number][2]], len(requests[number][1])) for number in row] for row in rows.values()]
        names = [str((requests[row[0]][0] or ("",))[0])[-80:] for row in rows.values()]
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for row, found in zip(rows.values(), score_texts(self._engine.model, items, names=names), strict=True):
            for number, likelihood in zip(row, found, strict=True):
                answers[number] = likelihood.logp, likelihood.greedy
                if requests[number][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[number][0], answers[number])
        return answers

    def _encode_marked(self, string: str) -> list[int]:
        ids: list[int] = []
        while string:
            found = [(string.find(mark), -len(mark), mark) for mark in self._tokens.special_ids if mark in string]
            if not found:
                return [*ids, *self._tokens.encode(string)]
            at, _, mark = min(found)
            ids += [*(self._tokens.encode(string[:at]) if at else []), self._tokens.special_ids[mark]]
            string = string[at + len(mark) :]
        return ids


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def register() -> None:
    """Makes `--model bloomery` known to lm-eval in this process."""
    register_model(NAME)(BloomeryLM)


def run_command_line(model: Path, arguments: Sequence[str]) -> None:
    """lm-eval's own command line on a checkpoint: `arguments` are all of its options but the model."""
    register()
    sys.argv = ["lm_eval", "run", "--model", NAME, "--model_args", f"pretrained={model}", *arguments]
    cli_evaluate()
