"""bivlm ask: one question about an image, several images, or none."""

from __future__ import annotations

from typing import Annotated

import typer

from bivlm.cli.shared import (
    MAIN,
    MORE,
    AdapterOption,
    JsonOption,
    MaxPixelsOption,
    MinPixelsOption,
    ModelArgument,
    PruneOption,
    TokensOption,
    TrustOption,
    chosen_pruning,
    command,
    print_json,
    quiet_libraries,
    shown,
)


@command(
    "ask",
    MAIN,
    'bivlm ask out --image photo.jpg "What is on the table?"',
    'bivlm ask out --image photo.jpg "How many?" --prune attention:layer=2,keep=0.25',
    'bivlm ask out --image before.jpg --image after.jpg "What has changed?" --system "Answer in one'
    ' sentence."',
)
def ask(
    model: ModelArgument,
    question: Annotated[str, typer.Argument(help="what to ask", show_default=False)],
    image: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "the file of the image to ask about, or a data URI; may be repeated for several images, in"
                " their order; left out: a question without an image"
            ),
            show_default=False,
        ),
    ] = None,
    system: Annotated[
        str, typer.Option(metavar="TEXT", help="system prompt", show_default=False, rich_help_panel=MORE)
    ] = "",
    max_new_tokens: TokensOption = 64,
    prune: PruneOption = None,
    adapter: AdapterOption = None,
    max_pixels: MaxPixelsOption = None,
    min_pixels: MinPixelsOption = None,
    trust_remote_code: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Ask a model, packed or not, a question about an image, several images, or none."""
    quiet_libraries()
    from bivlm.data.fields import check_text
    from bivlm.eval.answer import answer
    from bivlm.loading import load

    check_text(question, "the question", "")  # before the model is loaded
    loaded, processor = load(
        model,
        pruning=chosen_pruning(prune),
        adapter=adapter,
        max_pixels=max_pixels,
        min_pixels=min_pixels,
        trust_remote_code=trust_remote_code,
    )
    text = answer(loaded, processor, image, question, system=system, max_new_tokens=max_new_tokens)
    if json_:
        shown_image = image[0] if image and len(image) == 1 else image or None
        print_json({"question": question, "image": shown_image, "answer": text})
    else:
        print(shown(text))
