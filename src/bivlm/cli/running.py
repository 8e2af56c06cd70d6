"""The options of the commands that run a model: on which device, in which dtype, with how many threads and
with which activations.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bivlm.cli.shared import MORE
from bivlm.errors import InputError, no_such

DTYPES = ("auto", "float32", "bfloat16", "float16")
ACTIVATIONS = ("float", "int8")

DeviceOption = Annotated[
    str,
    typer.Option(help="where the model runs: cpu, cuda, cuda:1, mps, …", rich_help_panel=MORE),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        help=f"of what is not packed, and of activations: {', '.join(DTYPES)}; auto: the checkpoint's",
        rich_help_panel=MORE,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="threads of the processor; left out: torch's choice",
        show_default=False,
        rich_help_panel=MORE,
    ),
]
ActivationsOption = Annotated[
    str,
    typer.Option(
        help="float, or int8: faster with few tokens at a time, a little less exact", rich_help_panel=MORE
    ),
]
ExpandOption = Annotated[
    bool | None,
    typer.Option(
        "--expand/--packed",
        help=(
            "decode the packed weights once and keep them (more memory), or multiply with the packed bytes;"
            " the same numbers up to rounding"
        ),
        show_default=False,
        rich_help_panel=MORE,
    ),
]


def chosen_running(
    device: str = "cpu",
    dtype: str = "auto",
    threads: int | None = None,
    activations: str = "float",
    expand: bool | None = None,
    *,
    expanded: bool = False,
) -> dict[str, Any]:
    """The arguments of `bivlm.load` for these options, checked; the number of threads is set at once.
    `expanded` is what `expand` None means where the kernels are to be used with float activations.
    """
    if dtype not in DTYPES:
        raise no_such("dtype", dtype, DTYPES)
    if activations not in ACTIVATIONS:
        raise InputError(f"--activations is {activations!r}; give float or int8")
    if activations == "int8" and expand:
        raise InputError("--activations int8 multiplies with the packed bytes; leave --expand out")
    import torch

    from bivlm.loading import device_named

    if threads is not None:
        torch.set_num_threads(threads)
    return {
        "device": device_named(device),
        "dtype": None if dtype == "auto" else getattr(torch, dtype),
        "activations": activations,
        "expand": (expanded and activations == "float") if expand is None else expand,
    }
