"""bivlm show: one question to several models, in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bivlm.cli.running import (
    ActivationsOption,
    DeviceOption,
    DtypeOption,
    ExpandOption,
    ThreadsOption,
    chosen_running,
)
from bivlm.cli.shared import MORE, JsonOption, command, out_console, print_json, quiet_libraries
from bivlm.errors import InputError

ModelsArgument = Annotated[
    list[str],
    typer.Argument(metavar="MODEL…", help="a model, and the folders it was packed into", show_default=False),
]
QuestionOption = Annotated[str, typer.Option(help="what every model is asked", show_default=False)]
ImageOption = Annotated[
    list[str] | None, typer.Option(metavar="FILE", help="the image; may be repeated", show_default=False)
]
OutOption = Annotated[Path | None, typer.Option(metavar="FILE.png", help="the picture", show_default=False)]
CardOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="packed folder that gets the picture, small, on its model card; in place of an earlier one",
        show_default=False,
    ),
]
TokensOption = Annotated[int, typer.Option(min=1, help="the longest answer, in tokens", rich_help_panel=MORE)]


@command(
    "show",
    MORE,
    "bivlm show path/to/model out-2bit out-1bit --image photo.jpg --question 'What is this?' --out"
    " answers.png",
    "bivlm show path/to/model out --image photo.jpg --question 'What is this?' --card out",
)
def show(
    models: ModelsArgument,
    question: QuestionOption,
    out: OutOption = None,
    image: ImageOption = None,
    card: CardOption = None,
    max_new_tokens: TokensOption = 64,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    activations: ActivationsOption = "float",
    expand: ExpandOption = None,
    json_: JsonOption = False,
) -> None:
    """Ask several models the same question, and draw one picture: image, question, and with every answer the
    model's bits, size and speed. --out writes it to a file, --card puts it on the card of a packed model.
    """
    quiet_libraries()
    from bivlm.checkpoint.place import check_card
    from bivlm.cli.progress import Shown
    from bivlm.data.places import find_image
    from bivlm.studies.picture import require_matplotlib
    from bivlm.studies.show.card import PICTURE, put_on_card
    from bivlm.studies.show.picture import answers_picture
    from bivlm.studies.show.run import show as ask_all
    from bivlm.types import Sample

    require_matplotlib()
    if out is None and card is None:
        raise InputError("there is no place for the picture; give --out FILE.png, --card FOLDER, or both")
    if card is not None:
        check_card(card, PICTURE)
    sample = Sample(tuple(find_image(one, "--image") for one in image or ()), question, origin="the question")
    running = chosen_running(device, dtype, threads, activations, expand)
    with Shown() as events:
        answers = ask_all(models, sample, max_new_tokens=max_new_tokens, running=running, events=events)
    places = []
    if out is not None:
        answers_picture(sample, answers, out)
        places.append(out)
    if card is not None:
        places.append(put_on_card(sample, answers, card))
    if json_:
        print_json([{**vars(answer), "tokens_per_second": answer.tokens_per_second} for answer in answers])
        return
    for place in places:
        out_console.print(f"The picture is [bold]{place}[/bold]", soft_wrap=True)
