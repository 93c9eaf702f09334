"""A checkpoint behind OpenAI's API in this process, and OpenAI's own client that talks to it.

    pip install 'bloomery[serve]' openai
    python examples/serve_and_ask.py runs/smoke/sft "What is 2 + 3?"

`bloomery serve` does the same as a process of its own.
"""

import sys
import threading
import time
from pathlib import Path

import openai

from bloomery.chat.admission import open_socket
from bloomery.chat.server import Served, Service, make_server
from bloomery.chat.voice import load_voice
from bloomery.generate.engine import Engine
from bloomery.model.huggingface import load_model
from bloomery.tokens.tokenizer import load_tokenizer


def main(folder: Path, question: str) -> None:
    """Starts a server at a free port of this machine, streams one answer, and stops it."""
    voice = load_voice(folder, load_tokenizer(folder))
    server = make_server(Service(Served(name="mine", engine=Engine(load_model(folder), voice), voice=voice)))
    listener = open_socket("127.0.0.1", 0, token="")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)

    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    with openai.OpenAI(base_url=url, api_key="none needed on this machine") as client:
        messages = [{"role": "user", "content": question}]
        for chunk in client.chat.completions.create(model="mine", messages=messages, max_tokens=64, temperature=0, stream=True):
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()

    server.should_exit = True
    thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
