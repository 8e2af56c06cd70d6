"""bivlm ask: one question about images, videos, or nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from bivlm.cli.shared import (
    MAIN,
    MORE,
    AdapterOption,
    JsonOption,
    MaxFramesOption,
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
from bivlm.types import MOST_FRAMES


@command(
    "ask",
    MAIN,
    'bivlm ask out --image photo.jpg "What is on the table?"',
    'bivlm ask out --image photo.jpg "How many?" --prune attention:layer=2,keep=0.25',
    'bivlm ask out --image before.jpg --image after.jpg "What has changed?" --system "Answer in one'
    ' sentence."',
    'bivlm ask out --video clip.mp4 "What happens?" --max-frames 16',
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
    video: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "a video to ask about: a file, or a folder of its frames; may be repeated; videos come after"
                " the images"
            ),
            show_default=False,
        ),
    ] = None,
    max_frames: MaxFramesOption = MOST_FRAMES,
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
    """Ask a model, packed or not, a question about images, videos, or nothing."""
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
    text = answer(
        loaded,
        processor,
        image,
        question,
        video=video,
        max_frames=max_frames,
        system=system,
        max_new_tokens=max_new_tokens,
    )
    if json_:
        shown_image = image[0] if image and len(image) == 1 else image or None
        filmed = {"video": video[0] if len(video) == 1 else video} if video else {}
        print_json({"question": question, "image": shown_image, **filmed, "answer": text})
    else:
        print(shown(text))
