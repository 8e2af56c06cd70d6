"""llama.cpp's quantizers and runtime, through the package ik-llama-cpp-python: a fork with all types of
llama.cpp and some of its own (IQ1_KT, IQ2_KT).

`quantize` runs the package's program llama-quantize, which takes an importance matrix. `Library.dequantize`
expands what it stored, with the library's own code. `speed` runs the file in the package's runtime.

    python benchmarks/ik_llama.py FILE.gguf THREADS TOKENS      tokens per second and resident memory, as JSON
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from bivlm.errors import InputError
from gguf_model import Stored

PACKAGE = "ik_llama_cpp"
PROMPT = 64
_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _Traits(ctypes.Structure):
    """`ggml_type_traits_t`, returned by value: its size must be right."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleaved", ctypes.c_int64),
        ("bytes", ctypes.c_size_t),
        ("quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("rest", ctypes.c_void_p * 4),
        ("dot_type", ctypes.c_int),
        ("counts", ctypes.c_int64 * 2),
        ("products", ctypes.c_void_p * 2),
        ("row_meta", ctypes.c_int64),
    )


class _InitParams(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def package_folder() -> Path:
    """Where the package lies. InputError when it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise InputError("llama.cpp's types need its package: pip install ik-llama-cpp-python gguf")
    return Path(found.origin).parent


@dataclass(frozen=True)
class Library:
    """The package's ggml."""

    folder: Path

    @cached_property
    def _ggml(self) -> Any:
        library = ctypes.CDLL(str(self.folder / "lib" / "libggml.so"))
        library.ggml_internal_get_type_traits.restype = _Traits
        library.ggml_init.restype, library.ggml_init.argtypes = ctypes.c_void_p, (_InitParams,)
        library.ggml_free.argtypes = (ctypes.c_void_p,)
        library.ggml_free(library.ggml_init(_InitParams(1024, None, False)))  # fills its tables of float16
        library.ggml_quantize_chunk.restype = ctypes.c_size_t
        library.ggml_quantize_chunk.argtypes = (
            *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p),
        )
        library.ggml_row_size.restype = ctypes.c_size_t
        library.ggml_row_size.argtypes = (ctypes.c_int, ctypes.c_int64)
        return library

    def type_name(self, kind: int) -> str:
        return self._ggml.ggml_internal_get_type_traits(kind).name.decode().upper()

    def row_bytes(self, kind: int, columns: int) -> int:
        return self._ggml.ggml_row_size(kind, columns)

    def rounded(self, kind: int, weight: Tensor) -> Tensor:
        """A weight (out, in) float32 after it was stored in a type, without an importance matrix."""
        rows, columns = weight.shape
        weight = weight.contiguous()
        content = torch.zeros(rows * self.row_bytes(kind, columns), dtype=torch.uint8)
        written = self._ggml.ggml_quantize_chunk(
            kind, weight.data_ptr(), content.data_ptr(), 0, rows, columns, None
        )
        assert written == content.numel(), (kind, written)
        return self._expanded(kind, content, rows, columns)

    def dequantize(self, file: Path, stored: Stored) -> Tensor:
        """A tensor of a GGUF file in float32."""
        columns = stored.shape[-1]
        rows = torch.Size(stored.shape).numel() // columns
        width = self.row_bytes(stored.kind, columns)
        with file.open("rb") as opened:
            opened.seek(stored.start)
            content = bytearray(opened.read(rows * width))
        packed = torch.frombuffer(content, dtype=torch.uint8)
        if self.type_name(stored.kind) == "F32":
            return packed.view(torch.float32).view(stored.shape).clone()
        return self._expanded(stored.kind, packed, rows, columns).view(stored.shape)

    def _expanded(self, kind: int, packed: Tensor, rows: int, columns: int) -> Tensor:
        """The values (rows, columns) of rows that are stored in a type."""
        out, width = torch.empty(rows, columns), self.row_bytes(kind, columns)
        to_float = _TO_FLOAT(self._ggml.ggml_internal_get_type_traits(kind).to_float)
        for row in range(rows):
            to_float(packed.data_ptr() + row * width, out.data_ptr() + 4 * row * columns, columns)
        return out


@dataclass(frozen=True)
class Cost:
    """What a program took: seconds, and its largest resident memory in bytes."""

    seconds: float
    peak_bytes: int


def quantize(
    folder: Path, source: Path, out: Path, kind: str, importance: Path, options: Sequence[str], threads: int
) -> Cost:
    """Run llama-quantize. InputError, with its last line, when it refuses."""
    program = folder / "bin" / "llama-quantize"
    command = [program, "--imatrix", importance, *options, source, out, kind, str(threads)]
    started = time.perf_counter()
    with (out.parent / f"{out.name}.log").open("w+b") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        raise InputError(f"llama-quantize cannot make {kind}: {said[-1] if said else process.returncode}")
    return Cost(time.perf_counter() - started, usage.ru_maxrss * 1024)


def speed(file: Path, threads: int, tokens: int) -> dict[str, float]:
    """Tokens per second after a prompt, and resident memory, in a process of its own. InputError when the
    runtime cannot run the file.
    """
    command = [sys.executable, __file__, str(file), str(threads), str(tokens)]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        last = (found.stderr.strip() or "no word").splitlines()[-1]
        raise InputError(f"the runtime cannot run {file.name}: {last}")
    return json.loads(found.stdout.splitlines()[-1])


def run_file(file: str, threads: int, tokens: int) -> dict[str, float]:
    """What `speed` prints: a prompt is read, and then one token after the other."""
    from ik_llama_cpp import _ctypes_api as api
    from ik_llama_cpp._internals import IkContext, IkModel, make_batch, make_batch_single

    model = IkModel(file)
    context = IkContext(model, n_ctx=PROMPT + tokens + 8, n_threads=threads, flash_attn=False)

    def decode(batch: Any) -> None:
        status = context.decode(batch)
        api.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode: {status}")

    decode(make_batch(list(range(PROMPT))))
    decode(make_batch_single(1, PROMPT))
    started = time.perf_counter()
    for place in range(1, tokens + 1):
        decode(make_batch_single(place, PROMPT + place))
    seconds = time.perf_counter() - started
    return {"tokens_per_second": tokens / seconds, "resident_bytes": psutil.Process().memory_info().rss}


if __name__ == "__main__":
    print(json.dumps(run_file(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
