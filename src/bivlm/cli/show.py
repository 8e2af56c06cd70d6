"""bivlm show: one question to several models, in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bivlm.cli.shared import MORE, JsonOption, command, out_console, print_json, quiet_libraries

ModelsArgument = Annotated[
    list[str],
    typer.Argument(metavar="MODEL…", help="a model, and the folders it was packed into", show_default=False),
]
QuestionOption = Annotated[str, typer.Option(help="what every model is asked", show_default=False)]
ImageOption = Annotated[
    list[str] | None, typer.Option(metavar="FILE", help="the image; may be repeated", show_default=False)
]
OutOption = Annotated[Path, typer.Option(metavar="FILE.png", help="the picture", show_default=False)]
TokensOption = Annotated[int, typer.Option(min=1, help="the longest answer, in tokens", rich_help_panel=MORE)]


@command(
    "show",
    MORE,
    "bivlm show path/to/model out-2bit out-1bit --image photo.jpg --question 'What is this?' --out"
    " answers.png",
)
def show(
    models: ModelsArgument,
    question: QuestionOption,
    out: OutOption,
    image: ImageOption = None,
    max_new_tokens: TokensOption = 64,
    json_: JsonOption = False,
) -> None:
    """Ask several models the same question, and draw one picture: image, question, and under every answer the
    model's bits, size and speed.
    """
    quiet_libraries()
    from bivlm.cli.progress import Shown
    from bivlm.data.places import find_image
    from bivlm.studies.picture import require_matplotlib
    from bivlm.studies.show.picture import answers_picture
    from bivlm.studies.show.run import show as ask_all
    from bivlm.types import Sample

    require_matplotlib()
    sample = Sample(tuple(find_image(one, "--image") for one in image or ()), question, origin="the question")
    with Shown() as events:
        answers = ask_all(models, sample, max_new_tokens=max_new_tokens, events=events)
    answers_picture(sample, answers, out)
    if json_:
        print_json([{**vars(answer), "tokens_per_second": answer.tokens_per_second} for answer in answers])
        return
    out_console.print(f"The picture is [bold]{out}[/bold]", soft_wrap=True)
