"""Episodes as tensors: what a model says of them is what it says of each alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bloomery.align import episodes as module
from bloomery.align.episodes import Episode, Episodes, join_episodes, make_batches, make_episodes, measure_episodes, said_logps, said_values
from bloomery.core.stage import Launch
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.heads import replace_head, token_values
from bloomery.model.huggingface import load_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import load_tokenizer

CPU = torch.device("cpu")


def sample(folder: Path, *, temperature: float = 1.0, max_tokens: int = 12) -> tuple[Transformer, Episodes, int]:
    """Answers of unlike lengths to prompts of unlike lengths; of the first the middle was said by a tool."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    with torch.no_grad():
        model.head_weight().mul_(15.0)  # so that tokens are unlike, and some answers end by themselves
        model.head_weight()[tokenizer.end_id] *= 3.0
    prompts = [tokenizer.encode("the cat sat on a mat"[: 3 + 4 * i]) for i in range(5) for _ in range(2)]
    stops = tuple(range(0, tokenizer.vocab_size, 9))  # so that answers end at different places
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, stop_tokens=stops)
    samples = Engine(model, tokenizer).generate(prompts, params, seeds=range(len(prompts)))
    said = [[True] * len(one.tokens) for one in samples]
    said[0][1:3] = [False] * len(said[0][1:3])
    columns = zip(prompts, samples, said, strict=True)
    found = [Episode(prompt, one.tokens, mask, one.logps, one.finish != "length") for prompt, one, mask in columns]
    return model, make_episodes(found), tokenizer.vocab_size


def logps_one_by_one(model: Transformer, episodes: Episodes, *, temperature: float) -> torch.Tensor:
    """Each episode alone, each token from the logits of the one before it."""
    found = torch.zeros(episodes.token_NT.shape)
    for n in range(episodes.count):
        prompt = episodes.prompt_NS[n, : episodes.prompt_length_N[n]].tolist()
        tokens = episodes.token_NT[n, : episodes.length_N[n]].tolist()
        logits = model(torch.tensor([prompt + tokens]))[0] / temperature
        for t, token in enumerate(tokens):
            if episodes.said_NT[n, t]:
                found[n, t] = logits[len(prompt) + t - 1].log_softmax(-1)[token]
    return found


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_what_the_sampler_records_is_what_the_trainer_computes_and_what_each_episode_alone_has(policy_checkpoint, temperature) -> None:
    model, episodes, vocab_size = sample(policy_checkpoint, temperature=temperature)
    assert bool(episodes.stopped_N.any()) and len(set(episodes.length_N.tolist())) > 2
    with torch.no_grad():
        alone = logps_one_by_one(model, episodes, temperature=temperature)
        found = measure_episodes(
            episodes, lambda batch: said_logps(model, batch, temperature=temperature, vocab_size=vocab_size).logp_NT, CPU, Launch()
        )
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(episodes.sampled_logp_NT, alone, atol=1e-5, rtol=1e-5)
    if temperature != 1.0:  # as if temperature were forgotten (trl #4159), or divided log-probabilities (prime-rl PR 697)
        with torch.no_grad():
            untempered = logps_one_by_one(model, episodes, temperature=1.0)
        assert (untempered - alone).abs().max() > 0.1 and (untempered / temperature - alone).abs().max() > 0.1


def test_the_end_of_a_turn_is_kept_said_and_gets_a_gradient(policy_checkpoint) -> None:
    # nanochat #810: dropped from the sample, then padded with the same id and mask 0, so that stopping is never learned.
    model, episodes, vocab_size = sample(policy_checkpoint)
    tokenizer = load_tokenizer(policy_checkpoint)
    n = next(n for n in range(episodes.count) if episodes.token_NT[n, episodes.length_N[n] - 1] == tokenizer.end_id)
    last = int(episodes.length_N[n]) - 1
    assert episodes.token_NT[n, last] == tokenizer.end_id and bool(episodes.said_NT[n, last] and episodes.stopped_N[n])
    (batch,) = make_batches(episodes, np.array([n]), CPU, Launch())
    said_logps(model, batch, temperature=1.0, vocab_size=vocab_size).logp_NT[0, last].backward()
    assert model.head_weight().grad[tokenizer.end_id].abs().sum() > 0


def test_rows_of_several_episodes_and_other_micro_batches_change_nothing(policy_checkpoint) -> None:
    model, episodes, vocab_size = sample(policy_checkpoint)
    everything = np.arange(episodes.count)

    def gradient(batches):
        model.zero_grad()
        logps = torch.zeros(episodes.token_NT.shape)
        for batch in batches:
            said = said_logps(model, batch, temperature=1.0, vocab_size=vocab_size, entropy="measured")
            (said.logp_NT.square().sum()).backward()
            logps[batch.indices, : said.logp_NT.shape[1]] = said.logp_NT.detach()
        return logps, model.head_weight().grad.clone(), model.model.layers[0].mlp.up_proj.weight.grad.clone()

    whole = make_batches(episodes, everything, CPU, Launch())
    assert len(whole) == 1 and whole[0].token_BT.shape[0] < episodes.count, "some rows must hold several episodes"
    small = make_batches(episodes, everything, CPU, Launch(micro_batch_tokens=40))
    assert len(small) > 2
    alone = [batch for n in everything for batch in make_batches(episodes, np.array([n]), CPU, Launch())]
    expected = gradient(whole)
    for batches in (small, alone):
        for one, other in zip(gradient(batches), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_logits_in_chunks_give_the_same_numbers_and_gradients(policy_checkpoint, monkeypatch) -> None:
    model, episodes, vocab_size = sample(policy_checkpoint)
    (batch,) = make_batches(episodes, np.arange(episodes.count), CPU, Launch())
    found = []
    for limit in (1 << 26, 4 * vocab_size * 7):
        monkeypatch.setattr(module, "CHUNK_LOGITS_BYTES", {"cpu": limit})
        model.zero_grad()
        said = said_logps(model, batch, temperature=0.8, vocab_size=vocab_size, entropy="trained")
        (said.logp_NT.sum() + said.entropy_NT.square().sum()).backward()
        found.append((said.logp_NT.detach(), said.entropy_NT.detach(), model.head_weight().grad.clone()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_entropy_is_that_of_the_distribution_at_each_place(policy_checkpoint) -> None:
    model, episodes, vocab_size = sample(policy_checkpoint)
    (batch,) = make_batches(episodes, np.array([3]), CPU, Launch())
    entropy = said_logps(model, batch, temperature=0.7, vocab_size=vocab_size, entropy="measured").entropy_NT[0]
    prompt = episodes.prompt_NS[3, : episodes.prompt_length_N[3]].tolist()
    tokens = episodes.token_NT[3, : episodes.length_N[3]].tolist()
    logits = model(torch.tensor([prompt + tokens]))[0, len(prompt) - 1 : -1] / 0.7
    torch.testing.assert_close(entropy[: len(tokens)], torch.distributions.Categorical(logits=logits).entropy().detach())


def test_values_are_those_of_the_places_before_each_token(policy_checkpoint) -> None:
    _, episodes, _ = sample(policy_checkpoint)
    critic = replace_head(load_model(policy_checkpoint), seed=1)
    found = measure_episodes(episodes, lambda batch: said_values(critic, batch), CPU, Launch())
    for n in range(episodes.count):
        prompt = episodes.prompt_NS[n, : episodes.prompt_length_N[n]].tolist()
        tokens = episodes.token_NT[n, : episodes.length_N[n]].tolist()
        with torch.no_grad():
            alone = token_values(critic, torch.tensor([prompt + tokens]))[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(found[n, : len(tokens)], alone * episodes.said_NT[n, : len(tokens)], atol=1e-5, rtol=1e-5)


def test_joined_episodes_are_those_chosen_padded_to_one_length(policy_checkpoint) -> None:
    _, long, _ = sample(policy_checkpoint)
    _, short, _ = sample(policy_checkpoint, max_tokens=3)
    joined = join_episodes([long, short], torch.tensor([1, 10, 12]))
    assert joined.token_NT.shape[1] == long.token_NT.shape[1]
    assert joined.length_N.tolist() == [int(long.length_N[1]), int(short.length_N[0]), int(short.length_N[2])]
    assert joined.token_NT[1, :3].tolist() == short.token_NT[0, :3].tolist() and not joined.said_NT[1, 3:].any()


def test_an_episode_without_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        make_episodes([Episode([1], [], [], [], False)])
