"""bivlm recount: the true bits of anybody's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bivlm.cli.shared import MAIN, JsonOption, command, out_console, print_json
from bivlm.errors import InputError

AnythingArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="ANYTHING",
        help="GGUF or safetensors file, model folder, or OWNER/NAME (OWNER/NAME@REVISION) on the Hugging Face"
        " hub, of which only headers are fetched; several are compared",
        show_default=False,
    ),
]
FilesOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN", help="only files whose name matches, for example '*IQ1_S*'", show_default=False
    ),
]
MmprojOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="the GGUF file with the vision tower, where there are several",
        show_default=False,
    ),
]
PictureOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="draw the bits of every part as PNG", show_default=False),
]


@command("recount", MAIN, "bivlm recount model-Q2_K.gguf", "bivlm recount OWNER/NAME --picture bits.png")
def recount(
    anything: AnythingArgument,
    files: FilesOption = None,
    mmproj: MmprojOption = None,
    picture: PictureOption = None,
    json_: JsonOption = False,
) -> None:
    """Count the bits per weight of any checkpoint: GGUF, GPTQ, AWQ, EXL3, bitsandbytes, HQQ, bivlm and more.

    From the headers of its files alone: nothing is loaded or executed. Everything that is stored counts, by
    part, next to what the name claims.
    """
    from bivlm.recount.plot import recount_plot
    from bivlm.recount.run import recount as count
    from bivlm.recount.table import overview_table, recount_table
    from bivlm.studies.picture import require_matplotlib

    if picture is not None:
        require_matplotlib()
        if not picture.parent.is_dir():
            raise InputError(f"--picture is {picture}, and there is no folder {picture.parent}")
    found = [one for given in anything for one in count(given, files=files, mmproj=mmproj)]
    if picture is not None:
        recount_plot(found, picture)
    if json_:
        print_json([one.to_dict() for one in found])
        return
    for one in found:
        out_console.print(recount_table(one))
    if len(found) > 1:
        out_console.print(overview_table(found))
