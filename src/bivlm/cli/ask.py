"""bivlm ask: questions about images, videos, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
from bivlm.cli.sampled import SeedOption, TemperatureOption, TopPOption
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
from bivlm.errors import InputError
from bivlm.types import MOST_FRAMES

FROM_STDIN = "-"


@command(
    "ask",
    MAIN,
    'bivlm ask out --image photo.jpg "What is on the table?"',
    'bivlm ask out --image photo.jpg "How many?" --prune attention:layer=2,keep=0.25',
    'bivlm ask out --image before.jpg --image after.jpg "What has changed?" --system "Answer in one'
    ' sentence."',
    'bivlm ask out --video clip.mp4 "What happens?" --max-frames 16',
    'bivlm ask out --image photo.jpg "What is it?" "Where is it?" --stream',
    "bivlm ask out --image photo.jpg - < questions.txt",
)
def ask(
    model: ModelArgument,
    question: Annotated[
        list[str],
        typer.Argument(
            help="what to ask; several are asked one after the other, each by itself; - reads them from"
            " standard input, one a line",
            show_default=False,
        ),
    ],
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
    stream: Annotated[
        bool, typer.Option("--stream", help="print each answer while it is made", rich_help_panel=MORE)
    ] = False,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = None,
    prune: PruneOption = None,
    adapter: AdapterOption = None,
    max_pixels: MaxPixelsOption = None,
    min_pixels: MinPixelsOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    activations: ActivationsOption = "float",
    expand: ExpandOption = None,
    trust_remote_code: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Ask a model, packed or not, questions about images, videos, or nothing.

    The answer is the likeliest word after word, unless --temperature is given.
    """
    if stream and json_:
        raise InputError("--stream and --json are given; an object is printed when it is complete: give one")
    quiet_libraries()
    from bivlm.data.fields import check_text
    from bivlm.eval.answer import sample_to_ask
    from bivlm.loading import load
    from bivlm.serving.alone import answer_alone
    from bivlm.serving.asked import Sampling

    questions = _questions(question)
    for one in questions:
        check_text(one, "the question", "")  # before the model is loaded
    sampling = Sampling(temperature, top_p, seed)
    running = chosen_running(device, dtype, threads, activations, expand)
    loaded, processor = load(
        model,
        pruning=chosen_pruning(prune),
        adapter=adapter,
        max_pixels=max_pixels,
        min_pixels=min_pixels,
        trust_remote_code=trust_remote_code,
        **running,
    )
    answers = []
    for one in questions:
        text, _ = answer_alone(
            loaded,
            processor,
            sample_to_ask(image, one, video=video, max_frames=max_frames, system=system),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            tell=(lambda piece: print(shown(piece), end="", flush=True)) if stream else lambda piece: None,
        )
        answers.append({"question": one, **_asked_about(image, video), "answer": text})
        if not json_:
            print("" if stream else shown(text), flush=True)
    if json_:
        print_json(answers[0] if len(answers) == 1 and FROM_STDIN not in question else answers)


def _questions(given: Sequence[str]) -> list[str]:
    """The questions in their order, those of standard input in the place of "-". InputError if there is
    none.
    """
    found: list[str] = []
    for one in given:
        found += [line.strip() for line in sys.stdin if line.strip()] if one == FROM_STDIN else [one]
    if not found:
        raise InputError("standard input has no question; write one on each line")
    return found


def _asked_about(image: list[str] | None, video: list[str] | None) -> dict[str, str | list[str] | None]:
    """Images and videos as the JSON object shows them: one by itself, several as a list."""
    about: dict[str, str | list[str] | None] = {
        "image": image[0] if image and len(image) == 1 else image or None
    }
    return {**about, "video": video[0] if len(video) == 1 else video} if video else about
