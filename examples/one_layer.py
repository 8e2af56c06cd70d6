"""Quantize the weight of one linear layer, without any model around it, and look at error and true bits.

    python examples/one_layer.py --bits 2

The inputs of the layer are made up: correlated, and with some columns much larger than the others, as in a
language model. Round to nearest knows the weight alone; GPTQ and the trellis also see the second moment of
the inputs.
"""

import argparse

import torch
from torch import Tensor, nn

from bivlm.quantizers import GPTQ, RTN, Trellis
from bivlm.types import LinearStats


def relative_error(difference: Tensor, weight: Tensor, second_moment: Tensor) -> float:
    """Energy of what the layer's output loses over the energy of the output."""

    def energy(w: Tensor) -> float:
        return float(((w @ second_moment) * w).sum())

    return energy(difference) / energy(weight)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--features", type=int, nargs=2, default=(256, 512), metavar=("OUT", "IN"))
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    rows, columns = options.features
    weight = nn.Linear(columns, rows).weight.detach()
    mixing = torch.randn(columns, columns) / columns**0.5 + 0.5 * torch.eye(columns)
    x = (torch.randn(4 * columns, columns) @ mixing) * torch.rand(columns).pow(4).mul(10).add(0.1)
    second_moment = x.T @ x / len(x)
    stats = LinearStats(second_moments={"text": second_moment}, tokens={"text": len(x)})

    print("method    true bits   error of the output")
    for quantizer in (RTN(bits=options.bits), GPTQ(bits=options.bits), Trellis(bits=options.bits)):
        quantized = quantizer.quantize(weight, stats)
        packed = quantized.encode()  # what a file would hold
        error = relative_error(quantized.dequantize() - weight, weight, second_moment)
        print(f"{quantizer.name:8}  {packed.bits_per_weight():9.2f}   {error:.4f}")


if __name__ == "__main__":
    main()
