"""The host of a store's models: what it lists, what it loads, who must leave, and that its answers are the engine's."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from own_loop import run

from bloomery.chat.refusal import Refusal
from bloomery.core.artifact import RECORD, Store
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.huggingface import load_model
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.web.directory import Directory
from bloomery.web.models import ModelHost, conversation_prompt
from bloomery.web.sampling import BYTES_PER_PARAMETER, ModelLimits, Sampling

HELLO = [{"role": "user", "content": "What is 3 + 4?"}]


@pytest.fixture
def make_host(smoke_store):
    def make(store: Path = smoke_store, **limits) -> ModelHost:
        return ModelHost(Directory(Store(store)), limits=ModelLimits(**limits))

    return make


def ids_of(host: ModelHost) -> dict[str, str]:
    return {entry.name: entry.id for entry in host.models()}


def test_every_checkpoint_of_the_store_is_listed_with_what_it_can_do(make_host):
    models = {entry.name: entry for entry in make_host().models()}
    assert list(models) == ["smoke/base", "smoke/sft", "smoke/dpo", "smoke/chat"]
    assert [entry.is_chat for entry in models.values()] == [False, True, True, True]  # an export is what its model is
    assert all(entry.can_converse and entry.context_tokens == 256 for entry in models.values())
    weights = load_model(models["smoke/base"].path)
    assert models["smoke/base"].params == sum(weight.numel() for weight in weights.parameters())


def test_a_damaged_checkpoint_is_left_out_and_the_others_stay(make_host, smoke_store, tmp_path):
    store = tmp_path / "runs"
    shutil.copytree(smoke_store, store, symlinks=True)
    next(store.glob("artifacts/sft-*/config.json")).write_text("{")
    assert [entry.name for entry in make_host(store).models()] == ["smoke/base", "smoke/dpo", "smoke/chat"]


def test_an_answer_is_what_the_engine_draws_with_this_seed(make_host):
    host = make_host()

    async def ask():
        answered = await host.answer(
            ids_of(host)["smoke/sft"], HELLO, sampling=Sampling(max_tokens=12, temperature=0.9, top_p=0.95), seed=7
        )
        await host.close()
        return answered

    answered = run(ask())
    folder = next(entry.path for entry in host.models() if entry.name == "smoke/sft")
    tokenizer = load_tokenizer(folder)
    params = SamplingParams(max_tokens=12, temperature=0.9, top_p=0.95)
    prompt = render(tokenizer, HELLO, add_generation_prompt=True).ids
    (sample,) = Engine(load_model(folder), tokenizer).generate([prompt], params, seeds=[7])
    assert answered.tokens == sample.tokens
    assert answered.text == tokenizer.decode(sample.tokens)
    assert answered.logprob == pytest.approx(sum(sample.logps), rel=1e-6)


def test_who_was_used_longest_ago_leaves_when_room_is_needed(make_host):
    host = make_host(max_models=2)
    base, sft, dpo, _ = ids_of(host).values()

    async def visit():
        for model_id in (base, sft, base, dpo):
            async with host.use(model_id):
                pass
        found = [host.state(model_id) for model_id in (base, sft, dpo)]
        await host.close()
        return found

    assert run(visit()) == ["loaded", "", "loaded"]


def test_a_model_in_use_never_leaves_and_the_next_one_is_told_to_come_back(make_host):
    host = make_host(max_models=1)
    base, sft, *_ = ids_of(host).values()

    async def visit():
        async with host.use(base) as model:
            with pytest.raises(Refusal, match="all are answering") as told:
                async with host.use(sft):
                    pass
            assert (told.value.status, told.value.headers["Retry-After"]) == (503, "5")
            assert host.state(base) == "loaded"
            async with host.use(base) as again:
                assert again is model
        async with host.use(sft):
            assert (host.state(base), host.state(sft)) == ("", "loaded")
        await host.close()

    run(visit())


def test_a_model_whose_weights_are_broken_is_refused_by_name_and_the_others_answer(make_host, smoke_store, tmp_path):
    store = tmp_path / "runs"
    shutil.copytree(smoke_store, store, symlinks=True)
    weights = next(store.glob("artifacts/pretrain-*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100_000])
    host = make_host(store)

    async def visit():
        base, sft, *_ = ids_of(host).values()
        with pytest.raises(Refusal, match="smoke/base could not be loaded") as told:
            async with host.use(base):
                pass
        assert (told.value.status, host.state(base)) == (422, "")
        async with host.use(sft):
            pass
        await host.close()

    run(visit())


def test_a_model_that_can_never_fit_is_refused_with_its_size(make_host):
    host = make_host(max_bytes=1000 * BYTES_PER_PARAMETER)

    async def visit():
        async with host.use(ids_of(host)["smoke/base"]):
            pass

    with pytest.raises(Refusal, match=r"smoke/base takes 0\.0 GB") as told:
        run(visit())
    assert told.value.status == 422


def test_those_who_ask_together_share_one_load_and_one_who_leaves_does_not_end_it(make_host):
    host = make_host()
    base = ids_of(host)["smoke/base"]

    async def use():
        async with host.use(base) as model:
            return model

    async def visit():
        tasks = [asyncio.create_task(use()) for _ in range(3)]
        while not host.state(base):
            await asyncio.sleep(0.001)
        assert host.state(base) == "loading"
        tasks[0].cancel()
        first, *others = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(first, asyncio.CancelledError) and others[0] is others[1]
        await host.close()

    run(visit())


def test_a_checkpoint_that_was_built_anew_is_read_anew(make_host, smoke_store, tmp_path):
    store = tmp_path / "runs"
    shutil.copytree(smoke_store, store, symlinks=True)
    host = make_host(store)
    base = ids_of(host)["smoke/base"]

    async def visit():
        async with host.use(base) as model:
            pass
        next(store.glob(f"artifacts/pretrain-*/{RECORD}")).touch()
        async with host.use(base) as again:
            assert again is not model
        await host.close()

    run(visit())


def test_an_answer_that_nobody_waits_for_is_stopped(make_host):
    host = make_host()
    base = ids_of(host)["smoke/base"]

    async def visit():
        task = asyncio.create_task(host.answer(base, HELLO, sampling=Sampling(max_tokens=4096), seed=1))
        while not host.num_open:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(1):
            while host.num_open:
                await asyncio.sleep(0.01)
        await host.close()

    run(visit())


def test_the_oldest_turns_are_left_out_when_a_conversation_outgrows_the_context(make_host):
    host = make_host()
    entry = host.models()[1]
    voice = host.voice(entry)
    turns = [{"role": "system", "content": "Be brief."}]
    for i in range(40):
        turns += [{"role": "user", "content": f"What is {i} + {i}?"}, {"role": "assistant", "content": str(2 * i)}]
    turns.append({"role": "user", "content": "And now?"})
    prompt = conversation_prompt(voice, turns, context_tokens=256, max_tokens=64)
    assert prompt.ids == voice.render([turns[0], *turns[1 + prompt.forgotten :]])
    assert len(prompt.ids) <= 192 < len(voice.render([turns[0], *turns[1 + prompt.forgotten - 2 :]]))
    assert turns[1 + prompt.forgotten]["role"] == "user"


def test_a_last_message_that_alone_is_too_long_is_refused_with_the_numbers(make_host):
    host = make_host()
    long = [*HELLO, {"role": "assistant", "content": "7"}, {"role": "user", "content": "word " * 2000}]
    with pytest.raises(Refusal, match="reads 192 and an answer") as told:
        conversation_prompt(host.voice(host.models()[1]), long, context_tokens=256, max_tokens=64)
    assert told.value.status == 422


def test_a_server_that_nobody_talks_to_never_loads_torch():
    code = "import bloomery.web.app, sys, json; print(json.dumps([name for name in ('torch',) if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
