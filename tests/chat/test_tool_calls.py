"""Tools: told to a model, and called by it, whole and in pieces; and by a model that has learnt to call one."""

import json

import pytest
import torch

from bloomery.chat.server import Served
from bloomery.chat.tool_calls import CallFinder, Found, ToolCall, call_beginning, tell_tools, write_call
from bloomery.chat.voice import Voice
from bloomery.generate.engine import Engine
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.tokens.chat import render

WEATHER = {"type": "function", "function": {"name": "weather", "description": "", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rom"}}\n</tool_call>'
MARKED = '<|tool_call|>{"name": "weather", "arguments": {"city": "Rom"}}'


def find(text, *, size, **options):
    finder = CallFinder(**options)
    found = [item for i in range(0, len(text), size) for item in finder.add(text[i : i + size])] + finder.end()
    return "".join(item.text for item in found), [item.call for item in found if item.call]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        (CALL, "", [("weather", '{"city": "Rom"}')]),
        (f"Let me look. {CALL}\n{CALL}", "Let me look. ", [("weather", '{"city": "Rom"}')] * 2),
        ("no call at all", "no call at all", []),
        ("a < b and <tool_ca", "a < b and <tool_ca", []),
        ("<tool_call>not JSON</tool_call> so", "<tool_call>not JSON</tool_call> so", []),
        (CALL.removesuffix("</tool_call>"), "", [("weather", '{"city": "Rom"}')]),
        ('{"name": "weather", "parameters": {"city": "Rom"}}', "", [("weather", '{"city": "Rom"}')]),
        ('{"city": "Rom"}', '{"city": "Rom"}', []),
        ("", "", []),
        ('<|tool_call|>{"name": "weather", "arguments": {"city": "Rom"}}', "", [("weather", '{"city": "Rom"}')]),
        (f"Let me look. {MARKED}{MARKED}", "Let me look. ", [("weather", '{"city": "Rom"}')] * 2),
        ("a <|tool_ca", "a <|tool_ca", []),
        ("<|tool_call|>not JSON", "<|tool_call|>not JSON", []),
    ],
)
def test_calls_are_found_however_the_text_is_cut(text, said, calls, size):
    assert find(text, size=size) == (said, [ToolCall(*call) for call in calls])


def test_text_is_given_out_as_soon_as_it_can_be_no_call():
    finder = CallFinder()
    assert finder.add("Hello <") == [Found(text="Hello ")]
    assert finder.add("b>") == [Found(text="<b>")]


def test_an_asked_for_call_is_one_even_if_its_arguments_are_no_json():
    beginning = call_beginning("weather")
    assert find('{"city": "Rom"}}\n</tool_call>', size=3, beginning=beginning, name="weather") == (
        "",
        [ToolCall("weather", '{"city": "Rom"}')],
    )
    marked = call_beginning("weather", marked=True)
    assert find('{"city": "Rom"}}', size=3, beginning=marked, name="weather") == ("", [ToolCall("weather", '{"city": "Rom"}')])
    assert find('{"city": ', size=3, beginning=marked, name="weather") == ("", [ToolCall("weather", '{"city":')])
    assert find('{"city": ', size=3, beginning=beginning, name="weather") == ("", [ToolCall("weather", '{"city":')])


def test_a_call_and_its_result_become_turns_for_tokenizers_without_tokens_for_tools():
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rom"}'}}
    messages = [
        {"role": "user", "content": "Rom?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "21 C"},
        {"role": "tool", "content": "sunny"},
    ]
    plain = tell_tools(messages, [WEATHER])
    assert [message["role"] for message in plain] == ["system", "user", "assistant", "user"]
    assert json.dumps(WEATHER) in plain[0]["content"]
    assert plain[2]["content"] == CALL == write_call("weather", '{"city": "Rom"}')
    assert plain[3]["content"] == "<tool_response>\n21 C\n</tool_response>\n<tool_response>\nsunny\n</tool_response>"
    assert tell_tools([{"role": "system", "content": "Be brief."}], [WEATHER])[0]["content"].startswith("Be brief.\n\n# Tools")


CALLED = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
QUESTION = [{"role": "user", "content": "Rom?"}]
ANSWERED = [
    *QUESTION,
    {"role": "assistant", "content": None, "tool_calls": [CALLED]},
    {"role": "tool", "tool_call_id": "c", "content": "sun"},
]


@pytest.fixture(scope="module")
def server(run_server, tokenizer):
    """A model that has learnt two answers by heart: the call, and what it says to the result."""
    voice = Voice(tokenizer, None)
    config = ModelConfig(vocab_size=264, dim=48, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=24, mlp_dim=96, max_positions=1024)
    model = Transformer(config, seed=1)
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Rom"}}}]}
    conversations = [
        [*QUESTION, called],
        [*ANSWERED, {"role": "assistant", "content": "It is sunny in Rom."}],
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    rows = [render(tokenizer, conversation, tools=[WEATHER]) for conversation in conversations]
    for _ in range(90):
        loss = sum(answer_loss(model, row) for row in rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with run_server(Served(name="caller", engine=Engine(model, voice), voice=voice)) as running:
        yield running


def answer_loss(model, row):
    first = len(row.loss_mask) - row.loss_mask[::-1].index(False)
    token_1T = torch.tensor([row.ids])
    logits_TV = model.logits(model.hidden_states(token_1T)[0, first - 1 : -1])
    return torch.nn.functional.cross_entropy(logits_TV, token_1T[0, first:])


def test_a_model_that_calls_is_heard_by_openais_client_whole_and_streamed(server):
    ask = {"model": "caller", "messages": QUESTION, "tools": [WEATHER], "temperature": 0, "max_tokens": 100}
    choice = server.client().chat.completions.create(**ask).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls] == [
        ("weather", {"city": "Rom"})
    ]
    with server.client().chat.completions.stream(**ask) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    assert [(call.function.name, call.function.arguments) for call in final.message.tool_calls] == [("weather", '{"city": "Rom"}')]


def test_the_result_of_a_call_goes_back_and_is_answered(server):
    answer = server.client().chat.completions.create(model="caller", messages=ANSWERED, tools=[WEATHER], temperature=0, max_tokens=100)
    assert answer.choices[0].message.content == "It is sunny in Rom."
    assert answer.choices[0].message.tool_calls is None


def test_a_call_can_be_asked_for_and_refused(server):
    ask = {"model": "caller", "messages": [{"role": "user", "content": "hi"}], "tools": [WEATHER], "temperature": 0, "max_tokens": 60}
    named = {"type": "function", "function": {"name": "weather"}}
    choice = server.client().chat.completions.create(**ask, tool_choice=named).choices[0]
    assert [call.function.name for call in choice.message.tool_calls] == ["weather"]
    assert server.client().chat.completions.create(**ask, tool_choice="none").choices[0].message.tool_calls is None
