"""A server under load: throughput and waiting times with 1, 4 and 16 clients, and memory over many requests.

    python benchmarks/bench_serve.py [--model FOLDER] [--tokens 32] [--requests 64] [--soak 2000]
        [--threads 1] [--json docs/results/serve.json] [--markdown docs/results/serve.md]

`bivlm serve` runs in a process of its own; clients are threads of this one, each with OpenAI's own package.
A client asks one question about an image after the other (test questions of easy-VQA), and gets exactly
`--tokens` tokens (`ignore_eos`), so that all runs do the same work. Before anything is timed, the answers
of 16 clients at once are compared with those of one client alone. Runs follow each other, and the table
has the ratio to one client. Then `--soak` requests are answered by 16 clients, and the server's memory is
read in ten steps. Without `--model` the embedded model is packed by `trellis-2`.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
from openai import OpenAI
from PIL import Image

from bivlm.data.images import open_image
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.job.run import quantize
from bivlm.types import Sample
from bivlm.zoo import embedded_model
from machine import describe
from preset_tables import markdown_table, positive, print_table
from script import run_script

CLIENTS = (1, 4, 16)
COLUMNS = (" clients", " requests", " seconds", " tokens / s", " against 1", " median s", " p95 s")
STEPS = 10


@contextmanager
def serving(model: Path, threads: int) -> Iterator[tuple[OpenAI, psutil.Process]]:
    """A server in a process of its own, a client for it, and the process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bivlm", "serve", str(model), "--port", str(port), "--alias", "model"]
    process = subprocess.Popen([*command, "--threads", str(threads), "--waiting", "256"])
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, process)
        with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            yield client, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health"):
                return
        except OSError:
            time.sleep(0.2)
    raise InputError("the server ended before it listened")


def content_of(sample: Sample) -> list[dict[str, Any]]:
    """A question with its image, as a message."""
    assert isinstance(sample.image, Path | Image.Image)
    file = io.BytesIO()
    open_image(sample.image).save(file, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": sample.question}]


def ask(client: OpenAI, content: Sequence[dict[str, Any]], tokens: int) -> tuple[str, float]:
    """The answer, and the seconds that it took."""
    started = time.perf_counter()
    found = client.chat.completions.create(
        model="model",
        messages=[{"role": "user", "content": content}],
        max_tokens=tokens,
        extra_body={"ignore_eos": True},
    )
    text = found.choices[0].message.content or ""
    assert found.usage is not None
    if found.usage.completion_tokens != tokens:
        raise InputError(f"an answer has {found.usage.completion_tokens} tokens instead of {tokens}")
    return text, time.perf_counter() - started


def run(
    client: OpenAI, contents: Sequence[Any], clients: int, tokens: int
) -> tuple[list[str], dict[str, Any]]:
    """The answers to all questions by so many clients at once, and a row of the table."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(lambda content: ask(client, content, tokens), contents))
    seconds = time.perf_counter() - started
    waits = [wait for _, wait in found]
    row = {
        "clients": clients,
        "requests": len(found),
        "seconds": seconds,
        "tokens_per_second": tokens * len(found) / seconds,
        "median": median(waits),
        "p95": quantiles(waits, n=20)[-1],
    }
    return [text for text, _ in found], row


def soak(client: OpenAI, server: psutil.Process, contents: Sequence[Any], requests: int) -> list[float]:
    """The server's resident memory in MB after each tenth of many requests."""
    memory = []
    for _ in range(STEPS):
        part = [contents[number % len(contents)] for number in range(requests // STEPS)]
        run(client, part, max(CLIENTS), 4)
        memory.append(server.memory_info().rss / 1e6)
    return memory


def cells(row: dict[str, Any], first: dict[str, Any]) -> list[str]:
    return [
        str(row["clients"]),
        str(row["requests"]),
        f"{row['seconds']:.1f}",
        f"{row['tokens_per_second']:.1f}",
        f"{row['tokens_per_second'] / first['tokens_per_second']:.2f}",
        f"{row['median']:.2f}",
        f"{row['p95']:.2f}",
    ]


def report(options: argparse.Namespace) -> None:
    """Pack, serve, compare, time, and write."""
    samples = read_samples("easy-vqa", split="test", limit=options.requests)
    contents = [content_of(sample) for sample in samples]
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if model is None:
            calibration = read_samples("easy-vqa", split="train", limit=32)
            model = quantize(embedded_model(), Path(folder) / "packed", recipe="trellis-2", data=calibration)
        with serving(model, options.threads) as (client, server):
            alone, _ = run(client, contents, 1, options.tokens)
            together, _ = run(client, contents, max(CLIENTS), options.tokens)
            same = sum(one == other for one, other in zip(alone, together, strict=True))
            if same < 0.95 * len(alone):
                raise InputError(f"only {same} of {len(alone)} answers are the same alone and together")
            rows = [run(client, contents, clients, options.tokens)[1] for clients in CLIENTS]
            memory = soak(client, server, contents, options.soak) if options.soak else []
    found = {"machine": describe(), "tokens": options.tokens, "same": same, "rows": rows, "memory_mb": memory}
    table = [cells(row, rows[0]) for row in rows]
    print_table("serve", COLUMNS, table, found["machine"])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(page(found, table), encoding="utf-8")


def page(found: dict[str, Any], table: Sequence[Sequence[str]]) -> str:
    """The page of the results."""
    memory = ", ".join(f"{value:.0f}" for value in found["memory_mb"])
    lines = [
        "# A server under load",
        "",
        f"Each request has one image, and gets {found['tokens']} tokens. Of {found['rows'][0]['requests']}"
        f" answers {found['same']} are the same, letter by letter, from 16 clients at once and from"
        " one alone.",
        "",
        *markdown_table(COLUMNS, table),
        "",
        *([f"Resident memory over many requests, in MB, ten steps: {memory}.", ""] if memory else []),
        f"Machine: {found['machine']}. Command: `python benchmarks/bench_serve.py`.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="folder of a model; left out: the embedded one, packed")
    parser.add_argument("--tokens", type=positive, default=32, help="tokens of every answer")
    parser.add_argument("--requests", type=positive, default=64, help="questions of a run")
    parser.add_argument("--soak", type=int, default=2000, help="requests for the memory; 0 for none")
    parser.add_argument("--threads", type=positive, default=1, help="threads of the server")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    run_script("bench_serve", parser.parse_args(), report)


if __name__ == "__main__":
    main()
