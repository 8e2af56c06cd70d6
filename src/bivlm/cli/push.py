"""bivlm push: a packed folder to the hub."""

from __future__ import annotations

from typing import Annotated

import typer

from bivlm.cli.shared import MORE, JsonOption, command, out_console, print_json, quiet_libraries

FolderArgument = Annotated[
    str, typer.Argument(metavar="FOLDER", help="folder of a packed model", show_default=False)
]
NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="OWNER/NAME", help="model on the hub; it is made if it is not there", show_default=False
    ),
]
PrivateOption = Annotated[bool, typer.Option("--private", help="make it for yourself alone")]
RevisionOption = Annotated[
    str | None, typer.Option(metavar="BRANCH", help="branch to send it to", show_default=False)
]
MessageOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="what the commit says", show_default=False)
]


@command("push", MORE, "bivlm push out me/my-model-2bit", "bivlm push out me/my-model-2bit --private")
def push(
    folder: FolderArgument,
    name: NameArgument,
    private: PrivateOption = False,
    revision: RevisionOption = None,
    message: MessageOption = None,
    json_: JsonOption = False,
) -> None:
    """Put a packed folder on the Hugging Face hub, after all its checksums are compared.

    Log in once with `hf auth login`. Interrupted, the same command sends only what is missing. Others load it
    by its name: `bivlm ask OWNER/NAME …`, `bivlm.load("OWNER/NAME")`.
    """
    quiet_libraries()
    from bivlm.checkpoint.push import push as send

    address = send(folder, name, private=private, revision=revision, message=message)
    if json_:
        print_json({"folder": folder, "name": name, "address": address})
    else:
        out_console.print(f"{folder} is at {address}", soft_wrap=True, highlight=False)
