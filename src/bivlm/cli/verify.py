"""bivlm verify: the checksums of a packed folder."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from bivlm.cli.shared import MORE, JsonOption, ModelArgument, command, out_console, print_json

AcceptOption = Annotated[
    bool,
    typer.Option(
        "--accept",
        help=(
            "take the present processor, tokenizer, template and settings files as right, changed on purpose"
        ),
    ),
]


@command("verify", MORE, "bivlm verify out", "bivlm verify out --accept")
def verify(model: ModelArgument, accept: AcceptOption = False, json_: JsonOption = False) -> None:
    """Check a packed folder against its checksums, without loading the model.

    Every tensor, every module's settings, every file that loading reads; and that every packed weight
    decodes.
    """
    from bivlm.checkpoint.hub import resolve_model
    from bivlm.checkpoint.verify import accept_files, verify_folder

    folder = resolve_model(model)
    changed = accept_files(folder) if accept else []
    found = verify_folder(folder)
    if json_:
        print_json({"folder": str(folder), **asdict(found), "accepted": changed})
        return
    for name in changed:
        out_console.print(f"accepted: {name}", highlight=False)
    checked = (
        f"{found.tensors} tensors in {found.shards} shards, {found.modules} packed weights, {found.files}"
        " files"
    )
    without = "" if found.format_version else "; it has no checksums: only the forms were checked"
    out_console.print(f"{folder} is undamaged: {checked}{without}", soft_wrap=True, highlight=False)
