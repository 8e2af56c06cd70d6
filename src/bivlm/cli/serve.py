"""bivlm serve: a model for many clients."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import typer

from bivlm.cli.running import (
    ActivationsOption,
    DeviceOption,
    DtypeOption,
    ThreadsOption,
    chosen_running,
)
from bivlm.cli.shared import (
    MAIN,
    MORE,
    MaxPixelsOption,
    ModelArgument,
    PruneOption,
    TrustOption,
    chosen_pruning,
    command,
    note,
    quiet_libraries,
)
from bivlm.errors import InputError

KEY_VARIABLE = "BIVLM_API_KEY"
LOOPBACK = "127.0.0.1"


@command(
    "serve",
    MAIN,
    "bivlm serve out",
    "bivlm serve out --port 8080 --alias my-model --activations int8",
)
def serve(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 for all")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen at")] = 8000,
    alias: Annotated[
        str | None,
        typer.Option(help="the model's name for clients; left out: its folder's", show_default=False),
    ] = None,
    prune: PruneOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    activations: ActivationsOption = "float",
    together: Annotated[
        int, typer.Option(min=1, help="how many requests are answered together at most", rich_help_panel=MORE)
    ] = 16,
    waiting: Annotated[
        int,
        typer.Option(min=1, help="how many may wait; the next is refused with 429", rich_help_panel=MORE),
    ] = 64,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="longest answer, in tokens", rich_help_panel=MORE)
    ] = 1024,
    max_images: Annotated[
        int, typer.Option(min=1, help="most images of a request", rich_help_panel=MORE)
    ] = 16,
    max_body: Annotated[
        int, typer.Option(min=1, help="most MiB of a request, its images included", rich_help_panel=MORE)
    ] = 32,
    timeout: Annotated[
        float, typer.Option(min=1, help="seconds that a request may take", rich_help_panel=MORE)
    ] = 300.0,
    allow_urls: Annotated[
        bool,
        typer.Option(
            "--allow-urls",
            help="fetch images that requests name by http or https addresses, from public addresses alone",
            rich_help_panel=MORE,
        ),
    ] = False,
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="a page at / to ask the model", rich_help_panel=MORE)
    ] = True,
    root_path: Annotated[
        str,
        typer.Option(
            metavar="PREFIX",
            help="the prefix below which a proxy shows the server, like /vision",
            show_default=False,
            rich_help_panel=MORE,
        ),
    ] = "",
    max_pixels: MaxPixelsOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Serve a model, packed or not, to programs that speak OpenAI's chat completions.

    Requests that come while others are answered join them. A key is asked of clients if the environment has
    BIVLM_API_KEY. Nothing that a request names is read from this machine, and nothing fetched without
    --allow-urls: images come in it, as data URIs. A browser gets a page to ask the model.
    """
    _check_port(host, port)
    quiet_libraries()
    try:
        from bivlm.serving.serve import engine_of, site_of
        from bivlm.serving.serve import serve as listen
    except ImportError as error:
        raise InputError(f"serving needs more packages ({error.name}): pip install 'bivlm[serve]'") from error
    from bivlm.loading import load
    from bivlm.serving.limits import Limits

    running = chosen_running(device, dtype, threads, activations)
    key = os.environ.get(KEY_VARIABLE) or None
    limits = Limits(max_tokens, max_images, max_body << 20, timeout, key, allow_urls)
    site = site_of(model, alias=alias, root_path=root_path, page=page)
    loaded, processor = load(
        model,
        pruning=chosen_pruning(prune),
        max_pixels=max_pixels,
        trust_remote_code=trust_remote_code,
        **running,
    )
    engine = engine_of(loaded, processor, most_rows=together, most_waiting=waiting)
    if key is None and host != LOOPBACK:
        note.print(f"note: anyone who reaches {host} may use this model; set {KEY_VARIABLE} to ask for a key")
    asked_by = f"; to be asked at http://{host}:{port}{root_path}/" if page else ""
    note.print(f"serving {model} at http://{host}:{port}{root_path}/v1{asked_by}", highlight=False)
    listen(engine, site, host=host, port=port, limits=limits)


def _check_port(host: str, port: int) -> None:
    """InputError, before anything is loaded, if nothing can listen there."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise InputError(
            f"nothing can listen at {host}:{port} ({error.strerror}); give another --port or --host"
        ) from error
