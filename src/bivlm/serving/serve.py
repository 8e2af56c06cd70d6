"""A server's life: loaded, checked, listening; at the end what it has accepted is answered."""

from __future__ import annotations

import logging
import math
import signal
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from bivlm.errors import InputError
from bivlm.eval.folder import model_size
from bivlm.families import family_of
from bivlm.families.vision_only import check_answers_questions
from bivlm.serving.api import Site, application
from bivlm.serving.check import joins_exactly
from bivlm.serving.engine import Engine
from bivlm.serving.limits import Limits

KEEP_ALIVE = 75  # seconds; longer than proxies and clients keep a connection that is not in use
logger = logging.getLogger(__name__)


def engine_of(model: Any, processor: Any, *, most_rows: int = 16, most_waiting: int = 64) -> Engine:
    """An engine for a loaded model, which has tried whether rows may join a batch under way. The model no
    longer needs its folder. Raises InputError for a vision-only model.
    """
    check_answers_questions(family_of(model.config))
    _leave_files(model)
    engine = Engine(model, processor, most_rows=most_rows, most_waiting=most_waiting)
    engine.joins = joins_exactly(model, processor, family_of(model.config))
    if not engine.joins:
        logger.warning(
            "requests of this model cannot join a batch under way: those that wait are answered together"
        )
    return engine


def _leave_files(model: Any) -> None:
    """Copy a model's tensors to memory of their own. As they are loaded they are parts of the files: to whom
    these are cut or overwritten in their place, the next answer would be the last one, or wrong.
    """
    model._apply(lambda tensor: tensor.clone() if tensor.is_cpu else tensor)


def site_of(folder: str | Path, *, alias: str | None = None, root_path: str = "", page: bool = True) -> Site:
    """What a server shows of a model: it is called `alias`, and also by its folder. Raises InputError for a
    prefix that is none.
    """
    if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
        raise InputError(f"the prefix is {root_path!r}; write it like /vision: a slash before it, none after")
    found = model_size(folder)
    about = {"weight_bytes": found["weight_bytes"], "true_bits": found["true_bits"]}
    return Site((alias or Path(folder).resolve().name, str(folder)), about, root_path, page)


def listening(app: FastAPI, limits: Limits, *, host: str, port: int) -> uvicorn.Config:
    """How an application is served. At the end, clients that do not read their answers are waited for as long
    as a request may take.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(limits.seconds),
    )


def serve(engine: Engine, site: Site, *, host: str = "127.0.0.1", port: int = 8000, limits: Limits) -> None:
    """Listen until SIGTERM or Ctrl-C; then take nothing new, answer what was accepted, and return. Raises
    OSError if the port is in use.
    """
    config = listening(application(engine, site, limits), limits, host=host, port=port)
    engine.start()
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn ends at them, and then raises them again
        signal.signal(number, lambda *_: None)
    try:
        uvicorn.Server(config).run()
    finally:
        engine.stop()
