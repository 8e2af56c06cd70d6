"""bivlm export: a model folder in another program's files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bivlm.cli.shared import (
    MAIN,
    JsonOption,
    ModelArgument,
    TrustOption,
    command,
    out_console,
    print_json,
    quiet_libraries,
)


class Program(StrEnum):
    """What the files are for."""

    GGUF = "gguf"


ProgramArgument = Annotated[
    Program, typer.Argument(metavar="FORMAT", help="gguf: files for llama.cpp", show_default=False)
]
OutArgument = Annotated[
    Path, typer.Argument(metavar="OUT", help="folder for model.gguf and mmproj.gguf", show_default=False)
]
TypeOption = Annotated[
    str,
    typer.Option(
        "--type",
        metavar="TYPE",
        help=(
            "how matrices are stored: F16, BF16, F32 or Q8_0; packed codes that Q1_0 or TQ2_0 holds exactly"
            " are stored so by themselves"
        ),
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="replace the files in OUT, when the new ones are complete")
]


@command("export", MAIN, "bivlm export gguf out for-llama", "bivlm export gguf path/to/model out --type Q8_0")
def export(
    program: ProgramArgument,
    model: ModelArgument,
    out: OutArgument,
    type_: TypeOption = "F16",
    overwrite: OverwriteOption = False,
    trust_remote_code: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Write a model folder, packed or not, as files that llama.cpp loads and answers pictures with.

    A bridge: most packed weights become F16, so the files are not small (docs/export.md).
    """
    quiet_libraries()
    from bivlm.cli.progress import Shown
    from bivlm.exporting.run import export_gguf

    with Shown() as events:
        done = export_gguf(
            model,
            out,
            kind=type_,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            events=events,
        )
    if json_:
        print_json({"folder": str(done.folder), "files": dict(done.files), "types": dict(done.types)})
        return
    types = ", ".join(f"{kind} {count}" for kind, count in done.types.items())
    for name, nbytes in done.files.items():
        out_console.print(f"{done.folder / name}  {nbytes / 1e6:,.1f} MB", highlight=False, soft_wrap=True)
    projector = f" --mmproj {done.folder / 'mmproj.gguf'}" if len(done.files) > 1 else ""
    program_name = "llama-mtmd-cli" if projector else "llama-cli"
    picture = " --image IMAGE" if projector else ""
    out_console.print(
        f"Tensors: {types}. Ask it with: {program_name} -m {done.folder / 'model.gguf'}{projector} --jinja"
        f"{picture} -p QUESTION",
        highlight=False,
        soft_wrap=True,
    )
