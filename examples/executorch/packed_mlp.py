"""Export a small module with packed linears for ExecuTorch, run it there, and compare the numbers.

    pip install executorch cmake ninja
    python examples/executorch/packed_mlp.py --work build/executorch

Builds the operator next to this file (it needs a C++ compiler), quantizes the three linears of a gated MLP
by the trellis, writes `mlp.pte` into the work folder, loads it in ExecuTorch's Python runtime, and compares
its outputs with those of bivlm. Tried with ExecuTorch 1.5.1 and torch 2.13 on Linux, x86-64.

bivlm's own operators name a weight by a handle, which means nothing in another process. Here the tensors of
the weight are arguments, so the exporter puts them into the program as constants.
"""

import argparse
import ctypes
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from bivlm.formats.trellis import TrellisWeight, row_factors
from bivlm.native.library import library
from bivlm.packed.linear import PackedLinear
from bivlm.quantizers import Trellis

ARGUMENTS = (
    "Tensor x, Tensor bias, Tensor codes, Tensor bits, Tensor table, Tensor row_scale, Tensor signs,"
    " int window, int blocks"
)
OPERATORS = torch.library.Library("bivlm", "FRAGMENT")
OPERATORS.define(f"trellis_linear({ARGUMENTS}) -> Tensor")
OPERATORS.define(f"trellis_linear.out({ARGUMENTS}, *, Tensor(a!) out) -> Tensor(a!)")


@torch.library.register_fake("bivlm::trellis_linear", lib=OPERATORS)
def shape_only(
    x: Tensor,
    bias: Tensor,
    codes: Tensor,
    bits: Tensor,
    table: Tensor,
    row_scale: Tensor,
    signs: Tensor,
    window: int,
    blocks: int,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], len(row_scale)))


class TrellisLinear(nn.Module):
    """A packed linear in `trellis`, rotated, as kernel.cpp takes it."""

    def __init__(self, linear: PackedLinear) -> None:
        super().__init__()
        weight = TrellisWeight.decode(linear.packed)
        assert weight.rotated
        self.window, self.blocks = weight.window, weight.blocks
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
        for name, tensor in {
            "bias": bias,
            "codes": weight.codes,
            "bits": weight.bits,
            "table": weight.tables,
            "row_scale": row_factors(weight.row_scale, weight.exponent),
            "signs": weight.signs(),
        }.items():
            self.register_buffer(name, tensor.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.bivlm.trellis_linear(
            x,
            self.bias,
            self.codes,
            self.bits,
            self.table,
            self.row_scale,
            self.signs,
            self.window,
            self.blocks,
        )


class GatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)), with linears of whatever kind."""

    def __init__(self, gate: nn.Module, up: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.gate, self.up, self.down = gate, up, down

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def packed_linear(columns: int, rows: int) -> PackedLinear:
    """A random linear at two bits."""
    linear = nn.Linear(columns, rows)
    weight = Trellis(bits=2, window=8, feedback=False).quantize(linear.weight.detach(), None)
    return PackedLinear(weight.encode(), linear.bias.detach(), torch.float32)


def build(work: Path) -> Path:
    """The operator's shared library."""
    import executorch

    native = library()
    if native is None:
        sys.exit("packed_mlp: error: this bivlm has no native library; `bivlm doctor` says why")
    package = Path(next(iter(executorch.__path__)))
    settings = (f"-DCMAKE_PREFIX_PATH={package}", f"-DBIVLM_LIBRARY={native.path}")
    subprocess.run(["cmake", "-S", Path(__file__).parent, "-B", work, "-G", "Ninja", *settings], check=True)
    subprocess.run(["cmake", "--build", work], check=True)
    return work / "libbivlm_executorch.so"


def export(model: nn.Module, x: Tensor, path: Path) -> None:
    """The program of a model for inputs of the shape of x."""
    from executorch.exir import to_edge

    program = to_edge(torch.export.export(model, (x,))).to_executorch()
    path.write_bytes(program.buffer)


def run(path: Path, operators: Path, x: Tensor) -> Tensor:
    """The program's output in ExecuTorch."""
    from executorch.runtime import Runtime  # first: the operators are for the runtime that it loads

    ctypes.CDLL(str(operators))
    return Runtime.get().load_program(path).load_method("forward").execute([x])[0]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/executorch"), help="folder for what is made")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    linears = [packed_linear(512, 1536), packed_linear(512, 1536), packed_linear(1536, 512)]
    x = torch.randn(1, 7, 512)
    operators, path = build(options.work), options.work / "mlp.pte"
    export(GatedMLP(*map(TrellisLinear, linears)).eval(), x, path)

    with torch.inference_mode():
        expected = GatedMLP(*linears)(x)
    difference = (run(path, operators, x) - expected).abs().max() / expected.abs().max()
    weights = sum(linear.rows * linear.columns for linear in linears)
    print(f"{weights} weights, {8 * path.stat().st_size / weights:.2f} bits of the program for each")
    print(f"largest difference from bivlm: {difference:.1e} of the largest output")
    if difference > 1e-5:
        sys.exit("packed_mlp: error: ExecuTorch's numbers are not bivlm's")


if __name__ == "__main__":
    main()
