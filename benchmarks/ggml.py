"""llama.cpp's matrix products on the CPU, by ctypes: the libraries that its Python package `llama-cpp-python`
brings, or those of a folder.

    weight (float32) ─ ggml_quantize_chunk ─► tensor ─┐
    x (tokens, in) float32 ─────────┴─ a graph of ggml_mul_mat ─ the CPU backend ─► y (tokens, out) float32

A weight lies where llama.cpp would put it: in the buffer that stores it anew for the processor's instructions
("repack") if ggml says that it has a product for it there, in a plain one otherwise. One graph holds the
products with several copies of the weight, as a model's graph does.
"""

from __future__ import annotations

import ctypes
import importlib.util
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# ggml's numbers for its types, those of at most 2.7 bits and two larger ones
TYPES = {
    "Q1_0": 41,
    "IQ1_S": 19,
    "TQ1_0": 34,
    "IQ1_M": 29,
    "TQ2_0": 35,
    "IQ2_XXS": 16,
    "Q2_0": 42,
    "IQ2_XS": 17,
    "IQ2_S": 22,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_0": 2,
}
# rows that are quantized; a weight repeats them, because ggml's searches for its smallest types are slow
DRAWN_ROWS = 16
LIBRARIES = ("libggml-base", "libggml-cpu", "libggml")


class _InitParams(ctypes.Structure):
    _fields_ = (("size", c_size_t), ("buffer", c_void_p), ("no_alloc", c_bool))


class _TypeTraits(ctypes.Structure):
    """The beginning of `ggml_type_traits`."""

    _fields_ = (
        ("name", c_char_p),
        ("block", c_int64),
        ("interleaved", c_int64),
        ("bytes", c_size_t),
        ("quantized", c_bool),
        ("to_float", c_void_p),
    )


_TO_FLOAT = ctypes.CFUNCTYPE(None, c_void_p, POINTER(c_float), c_int64)
_EXTRA_BUFFERS = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)
_LOG = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
_SILENT = _LOG(lambda level, text, data: None)  # ggml tells of every tensor that it stores anew
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_log_set": (None, (_LOG, c_void_p)),
    "ggml_init": (c_void_p, (_InitParams,)),
    "ggml_free": (None, (c_void_p,)),
    "ggml_version": (c_char_p, ()),
    "ggml_tensor_overhead": (c_size_t, ()),
    "ggml_graph_overhead_custom": (c_size_t, (c_size_t, c_bool)),
    "ggml_row_size": (c_size_t, (c_int, c_int64)),
    "ggml_get_type_traits": (POINTER(_TypeTraits), (c_int,)),
    "ggml_quantize_requires_imatrix": (c_bool, (c_int,)),
    "ggml_quantize_chunk": (c_size_t, (c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p)),
    "ggml_new_tensor_2d": (c_void_p, (c_void_p, c_int, c_int64, c_int64)),
    "ggml_mul_mat": (c_void_p, (c_void_p, c_void_p, c_void_p)),
    "ggml_new_graph_custom": (c_void_p, (c_void_p, c_size_t, c_bool)),
    "ggml_build_forward_expand": (None, (c_void_p, c_void_p)),
    "ggml_backend_cpu_init": (c_void_p, ()),
    "ggml_backend_cpu_set_n_threads": (None, (c_void_p, c_int)),
    "ggml_backend_cpu_buffer_type": (c_void_p, ()),
    "ggml_backend_cpu_reg": (c_void_p, ()),
    "ggml_backend_reg_dev_get": (c_void_p, (c_void_p, c_size_t)),
    "ggml_backend_reg_get_proc_address": (c_void_p, (c_void_p, c_char_p)),
    "ggml_backend_dev_supports_op": (c_bool, (c_void_p, c_void_p)),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, (c_void_p, c_void_p)),
    "ggml_backend_buffer_free": (None, (c_void_p,)),
    "ggml_backend_tensor_set": (None, (c_void_p, c_void_p, c_size_t, c_size_t)),
    "ggml_backend_tensor_get": (None, (c_void_p, c_void_p, c_size_t, c_size_t)),
    "ggml_backend_graph_compute": (c_int, (c_void_p, c_void_p)),
}


class Ggml:
    """The libraries, and a CPU backend with a number of threads."""

    def __init__(self, folder: Path, threads: int) -> None:
        files = [
            next(path for suffix in (".so", ".dylib") if (path := folder / f"{name}{suffix}").is_file())
            for name in LIBRARIES
        ]
        self._libraries = [ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL) for file in files]
        for name, (result, arguments) in _SIGNATURES.items():
            function = next(getattr(library, name) for library in self._libraries if hasattr(library, name))
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("ggml_"), function)
        self.log_set(_SILENT, None)
        self.backend = self.backend_cpu_init()
        self.backend_cpu_set_n_threads(self.backend, threads)
        registry = self.backend_cpu_reg()
        self.device = self.backend_reg_dev_get(registry, 0)
        self.buffers = [self.backend_cpu_buffer_type()]
        if address := self.backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts"):
            extra, i = _EXTRA_BUFFERS(address)(self.device), 0
            while extra[i]:
                self.buffers.insert(i, extra[i])
                i += 1

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name}: not one of the functions in _SIGNATURES")

    @property
    def name(self) -> str:
        return f"ggml {self.version().decode()}"

    def fits(self, kind: str, columns: int) -> bool:
        """Whether rows of so many columns can be stored in a type."""
        return columns % self.get_type_traits(TYPES[kind]).contents.block == 0

    def bits(self, kind: str) -> float:
        traits = self.get_type_traits(TYPES[kind]).contents
        return 8 * traits.bytes / traits.block

    def quantize(self, kind: str, weight: Tensor) -> Tensor:
        """(rows, columns) float32 in one of ggml's types: uint8 bytes."""
        number, (rows, columns) = TYPES[kind], weight.shape
        out = torch.empty(rows, self.row_size(number, columns), dtype=torch.uint8)
        importance = torch.ones(columns) if self.quantize_requires_imatrix(number) else None
        place = None if importance is None else importance.data_ptr()
        written = self.quantize_chunk(
            number, weight.contiguous().data_ptr(), out.data_ptr(), 0, rows, columns, place
        )
        assert written == out.numel(), (kind, written, out.numel())
        return out

    def dequantize(self, kind: str, stored: Tensor, columns: int) -> Tensor:
        out = torch.empty(len(stored), columns)
        to_float = _TO_FLOAT(self.get_type_traits(TYPES[kind]).contents.to_float)
        to_float(stored.data_ptr(), ctypes.cast(out.data_ptr(), POINTER(c_float)), out.numel())
        return out

    def context(self, tensors: int, nodes: int = 0) -> int:
        size = tensors * self.tensor_overhead() + (self.graph_overhead_custom(nodes, False) if nodes else 0)
        return self.init(_InitParams(size + 1024, None, True))


class GgmlWeight:
    """Copies of a random weight in one of ggml's types."""

    def __init__(self, ggml: Ggml, kind: str, shape: tuple[int, int], copies: int) -> None:
        self.ggml, self.kind, (self.rows, self.columns) = ggml, kind, shape
        drawn = (
            torch.randn(min(DRAWN_ROWS, self.rows), self.columns, generator=torch.Generator().manual_seed(0))
            * self.columns**-0.5
        )
        self.drawn = ggml.quantize(kind, drawn)
        stored = self.drawn.repeat(-(-self.rows // len(self.drawn)), 1)[: self.rows].contiguous()
        self.nbytes = stored.numel()
        self.context, self.tensors, self.buffer, self.repacked = self._place(copies)
        for tensor in self.tensors:
            ggml.backend_tensor_set(tensor, stored.data_ptr(), 0, self.nbytes)
        self.graphs: dict[tuple[int, int], GgmlGraph] = {}

    def _place(self, copies: int) -> tuple[int, list[int], int, bool]:
        """Context, tensors and memory of the first kind that ggml has a product for."""
        ggml = self.ggml
        for buffer_type in ggml.buffers:
            context = ggml.context(copies)
            tensors = [
                ggml.new_tensor_2d(context, TYPES[self.kind], self.columns, self.rows) for _ in range(copies)
            ]
            buffer = ggml.backend_alloc_ctx_tensors_from_buft(context, buffer_type)
            trial = ggml.context(2)
            product = ggml.mul_mat(trial, tensors[0], ggml.new_tensor_2d(trial, 0, self.columns, 1))
            known = ggml.backend_dev_supports_op(ggml.device, product)
            ggml.free(trial)
            if known:
                return context, tensors, buffer, buffer_type != ggml.buffers[-1]
            ggml.backend_buffer_free(buffer)
            ggml.free(context)
        raise RuntimeError(f"ggml has no product for {self.kind}")

    def dequantize(self) -> Tensor:
        """The rows that the weight repeats, float32."""
        return self.ggml.dequantize(self.kind, self.drawn, self.columns)

    def graph(self, x: Tensor, products: int) -> GgmlGraph:
        key = (len(x), products)
        if key not in self.graphs:
            self.graphs[key] = GgmlGraph(self, x, products)
        return self.graphs[key]

    def free(self) -> None:
        for graph in self.graphs.values():
            graph.free()
        self.ggml.backend_buffer_free(self.buffer)
        self.ggml.free(self.context)


class GgmlGraph:
    """x times the first `products` copies of a weight."""

    def __init__(self, weight: GgmlWeight, x: Tensor, products: int) -> None:
        self.ggml, self.shape = weight.ggml, (len(x), weight.rows)
        self.context = self.ggml.context(products + 1, products + 8)
        given = self.ggml.new_tensor_2d(self.context, 0, weight.columns, len(x))
        self.outputs = [
            self.ggml.mul_mat(self.context, tensor, given) for tensor in weight.tensors[:products]
        ]
        self.graph = self.ggml.new_graph_custom(self.context, products + 8, False)
        for output in self.outputs:
            self.ggml.build_forward_expand(self.graph, output)
        self.buffer = self.ggml.backend_alloc_ctx_tensors_from_buft(self.context, self.ggml.buffers[-1])
        x = x.float().contiguous()
        self.ggml.backend_tensor_set(given, x.data_ptr(), 0, x.nbytes)

    def run(self) -> None:
        status = self.ggml.backend_graph_compute(self.ggml.backend, self.graph)
        assert status == 0, status

    def output(self) -> Tensor:
        """The last product."""
        y = torch.empty(self.shape)
        self.ggml.backend_tensor_get(self.outputs[-1], y.data_ptr(), 0, y.nbytes)
        return y

    def free(self) -> None:
        self.ggml.backend_buffer_free(self.buffer)
        self.ggml.free(self.context)


def find_ggml(given: Path | None) -> Path | None:
    """The folder of ggml's libraries: the given one, that of an installed `llama_cpp`, or none."""
    if given is not None:
        return given if given.is_dir() else given.parent
    package = importlib.util.find_spec("llama_cpp")
    folder = None if package is None or package.origin is None else Path(package.origin).parent / "lib"
    return folder if folder is not None and folder.is_dir() else None
