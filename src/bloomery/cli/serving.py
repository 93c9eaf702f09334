"""The command `serve`: a model behind OpenAI's HTTP API."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from bloomery.cli.display import Debug, Json, print_json, print_text, session
from bloomery.cli.options import DEFAULT_STORE, ModelArgument, NodeOption, StoreOption

SERVE_EXAMPLES = (
    "Examples:\n\n    bloomery serve quickstart\n\n    bloomery serve path/to/huggingface_folder --port 9000 --name my-model\n\n"
    "    BLOOMERY_TOKEN=$(openssl rand -hex 24) bloomery serve quickstart --host 0.0.0.0\n\n"
    "Then, with OpenAI's client: OpenAI(base_url='http://127.0.0.1:8000/v1', api_key='TOKEN or anything'). docs/serving.md says more."
)


def serve(
    model: ModelArgument,
    host: Annotated[str, typer.Option("--host", help="Where to listen; any other than loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    token: Annotated[
        str,
        typer.Option(
            "--token", envvar="BLOOMERY_TOKEN", help="What clients must send. Others see options in `ps`: better set the variable."
        ),
    ] = "",
    name: Annotated[str | None, typer.Option("--name", help="What clients call the model (default: its folder).", metavar="NAME")] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Answers that are made together; more wait.")] = 64,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="The most tokens of an answer.")] = 4096,
    requests_per_minute: Annotated[int, typer.Option("--requests-per-minute", min=0, help="Of each client; 0 = no limit.")] = 0,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for an answer.")] = 600,
    device: Annotated[str, typer.Option("--device", help="auto (a GPU if there is one), cpu, cuda, cuda:1.")] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, bf16, fp16, or auto: bf16 where the hardware has it.", metavar="NAME")
    ] = "fp32",
    node: NodeOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Serve a model to OpenAI's clients: chat and text completions, streams, tools. Ctrl-C stops."""
    with session(as_json=as_json, debug=debug):
        from bloomery.chat.admission import ServerLimits, open_socket
        from bloomery.chat.server import Served, Service, make_server

        listener = open_socket(host, port, token=token)  # and an address that is taken is said before a model is read

        from bloomery.core.errors import ConfigError
        from bloomery.model.device import Precision, resolve_device, resolve_dtype

        precisions: dict[str, Precision] = {"auto": "auto", "bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}
        if precision not in precisions:
            raise ConfigError(f"--precision {precision}: expected one of {', '.join(precisions)}")

        from bloomery.chat.voice import load_voice
        from bloomery.generate.engine import Engine
        from bloomery.model.huggingface import load_model
        from bloomery.pipeline.locate import find_checkpoint
        from bloomery.tokens.tokenizer import load_tokenizer

        path = find_checkpoint(model, store, node=node)
        voice = load_voice(path, load_tokenizer(path))
        where = resolve_device(device)
        network = load_model(path, dtype=resolve_dtype(precisions[precision], where), device=where).eval()
        limits = ServerLimits(max_answer_tokens=max_tokens, requests_per_minute=requests_per_minute, answer_seconds=timeout)
        served = Served(
            name=name or Path(model.rstrip("/")).name,
            engine=Engine(network, voice),
            voice=voice,
            limits=limits,
            token=token,
            max_rows=rows,
            created=int(time.time()),
        )
        address = listener.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        url = f"http://{shown}:{address[1]}/v1"
        if as_json:
            print_json({"url": url, "model": served.name, "path": str(path), "context_tokens": served.engine.context_tokens})
        else:
            print_text(f"{served.name} ({path}) at {url}; {'with' if token else 'without'} a token. Ctrl-C stops.")
        sys.stdout.flush()  # whoever started us reads the address from a pipe
        make_server(Service(served)).run(sockets=[listener])
