"""The command `web`: chat, runs, corpus, arena and tokenizer in the browser."""

import secrets
import socket
import sys
import webbrowser
from typing import Annotated

import typer

from bloomery.cli.display import Debug, Json, print_json, print_text, session
from bloomery.cli.options import DEFAULT_STORE, StoreOption

LABELS_OPTION = typer.Option(
    "--labels",
    envvar="BLOOMERY_LABELS",
    help="The database of votes: a file, or postgresql://USER@HOST/NAME. Default: in the store.",
    metavar="URL",
)

WEB_EXAMPLES = (
    "Examples:\n\n    bloomery web\n\n    bloomery web --store /shared/runs --port 9000 --open\n\n"
    "    BLOOMERY_TOKEN=$(openssl rand -hex 24) bloomery web --host 0.0.0.0 --allow-host lab.example.org\n\n"
    "The address that is printed holds a token: open it once in a browser, which keeps a cookie. docs/web.md says more."
)


def web(
    host: Annotated[str, typer.Option("--host", help="Where to listen; any other than loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    token: Annotated[
        str,
        typer.Option(
            "--token", envvar="BLOOMERY_TOKEN", help="Instead of a random one. Others see options in `ps`: better set the variable."
        ),
    ] = "",
    no_token: Annotated[bool, typer.Option("--no-token", help="Ask for none: everybody on this machine may look. Loopback only.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="A name by which this server is reached (repeatable).", metavar="NAME")
    ] = None,
    labels: Annotated[str, LABELS_OPTION] = "",
    device: Annotated[str, typer.Option("--device", help="Where models answer: auto (a GPU if there is one), cpu, cuda, cuda:1.")] = "auto",
    model_memory: Annotated[float, typer.Option("--model-memory", min=0.1, help="That models may take, together.", metavar="GB")] = 16.0,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser here.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at runs, data and tokenizers, talk to models and compare them, in the browser. Ctrl-C stops."""
    with session(as_json=as_json, debug=debug):
        from bloomery.core.memory import return_memory_at_once

        return_memory_at_once()  # before anything brings pyarrow or polars

        from bloomery.chat.admission import open_socket
        from bloomery.core.errors import ConfigError
        from bloomery.web.app import make_web_app, make_web_server  # early: it says what to install

        if no_token and token:
            raise ConfigError("--no-token and a token (--token, BLOOMERY_TOKEN) exclude each other")
        token = "" if no_token else token or secrets.token_urlsafe(24)
        listener = open_socket(host, port, token=token)

        from bloomery.web.context import make_context
        from bloomery.web.guard import Access
        from bloomery.web.sampling import ModelLimits

        limits = ModelLimits(device=device, max_bytes=round(model_memory * 1e9))
        context = make_context(store, labels=labels, limits=limits)
        app = make_web_app(context, Access(token=token, hosts=[*(allow_host or []), socket.gethostname(), host]))
        address = listener.getsockname()
        shown = socket.gethostname() if address[0] in ("0.0.0.0", "::") else f"[{address[0]}]" if ":" in address[0] else address[0]
        url = f"http://{shown}:{address[1]}/" + (f"?token={token}" if token else "")
        if as_json:
            print_json({"url": url, "store": str(store)})
        else:
            print_text(f"bloomery web for {store}/ at\n\n    {url}\n\nCtrl-C stops.")
        sys.stdout.flush()  # whoever started us reads the address from a pipe
        if open_browser:
            webbrowser.open(url)
        make_web_server(app).run(sockets=[listener])
