"""The values that are passed between the stages, and the letters for shapes that every docstring uses.

Letters for shapes: `out`, `in` = features of a linear (weights are always (out, in), groups run along `in`);
`b` = columns in a block; `g` = groups per row; `t` = tokens; `v` = visual tokens; `d` = hidden size; `n` =
samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

if TYPE_CHECKING:  # the commands that only read data start without torch
    from torch import Tensor

PartName = Literal["vision", "projector", "language"]
PARTS: tuple[PartName, ...] = ("vision", "projector", "language")
EMBEDDINGS = "embeddings"  # the name of the token embedding and the language head in tables

Modality = Literal["text", "visual", "all"]  # "all": both together, where they need not be told apart
ModalityWeight = (
    Literal["tokens", "balanced", "gradient"] | float
)  # how text and visual tokens share a second moment: LinearStats.second_moment says how


JOINED_ROWS = 512  # of second moments that are joined at a time
Picture = Path | Image.Image  # a path is opened when it is needed, so a large set costs no memory
MOST_FRAMES = 8  # of a video, where nothing else is said


@dataclass(frozen=True)
class Video:
    """Frames in their order, or the file that holds them; opened when it is needed.

    `source` is an image for each frame, or one file: an animation (GIF, WebP, PNG) or a video (.mp4, .webm,
    …). `most` frames of it are read at most, evenly spaced, the first and the last among them. `fps` is how
    many frames per second `source` has; None takes it from the file, or else FRAME_RATE (data/videos.py).
    Raises ValueError for a video without frames, and for numbers below 1 frame or at 0 frames per second.
    """

    source: Picture | tuple[Picture, ...]
    most: int = MOST_FRAMES
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.source == () or self.most < 1 or (self.fps is not None and not 0 < self.fps < float("inf")):
            raise ValueError(
                f"a video needs 1 frame or more, and frames per second above 0 (fps is {self.fps})"
            )


@dataclass(frozen=True)
class Clip:
    """The opened frames of a video: RGB images of one size.

    `numbers` says which of the video's `total` frames they are, ascending from 0; `fps` is how many frames
    per second the video has.
    """

    frames: tuple[Image.Image, ...]
    numbers: tuple[int, ...]
    total: int
    fps: float


Visual = Picture | Video


@dataclass(frozen=True)
class Turn:
    """An earlier question of a conversation, its texts, images and videos in their order, and its answer."""

    parts: tuple[str | Visual, ...]
    answer: str

    @property
    def visuals(self) -> tuple[Visual, ...]:
        """The images and videos in their order."""
        return tuple(part for part in self.parts if not isinstance(part, str))


@dataclass(frozen=True)
class Marks:
    """What a mask is asked for in an image, in its pixels: an object for each box (x0, y0, x1, y1), or for
    each entry of `points`, whose `labels` say which of its (x, y) are inside the object (1) and which are not
    (0). `masks` are the true masks, one of each object, or none.
    """

    boxes: tuple[tuple[float, float, float, float], ...] = ()
    points: tuple[tuple[tuple[float, float], ...], ...] = ()
    labels: tuple[tuple[int, ...], ...] = ()
    masks: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One question, the images and videos that it is about, and what people answered.

    `image` is one image (a path, or an image in memory) or video, several of them in their order, or None for
    a question without an image. `answers` holds every accepted answer: one for exact match, several (usually
    ten) for VQA accuracy. `origin` says where the sample came from ("vqa.jsonl:12"); error messages name it.
    `system` is a system prompt. `places` says how many characters of the question come before each image
    or video, ascending; left out, all of them come first (`Sample.of` makes a sample from parts in order).
    `group` is what a result is also told by: a subtask, an ability, a kind of question. `turns` are the
    earlier turns of the conversation; their images are their own. `marks` are the boxes or points by which
    masks are asked for, of models that draw them. Raises ValueError for places that do not fit the images and
    the question.
    """

    image: Visual | Sequence[Visual] | None
    question: str
    answers: tuple[str, ...] = ()
    origin: str = ""
    system: str = ""
    places: tuple[int, ...] = ()
    group: str = ""
    turns: tuple[Turn, ...] = ()
    marks: Marks | None = None

    def __post_init__(self) -> None:
        count = len(self._own)
        fit = len(self.places) == count and list(self.places) == sorted(self.places)
        if self.places and not (fit and self.places[0] >= 0 and self.places[-1] <= len(self.question)):
            raise ValueError(
                f"places {self.places} do not fit {count} images in {len(self.question)} characters"
            )

    @classmethod
    def of(
        cls,
        parts: Sequence[str | Visual],
        answers: tuple[str, ...] = (),
        origin: str = "",
        system: str = "",
        group: str = "",
        turns: tuple[Turn, ...] = (),
    ) -> Sample:
        """A sample from texts, images and videos in order; the texts together are its question."""
        question, images, places = "", [], []
        for part in parts:
            if isinstance(part, str):
                question += part
            else:
                images.append(part)
                places.append(len(question))
        image = None if not images else images[0] if len(images) == 1 else tuple(images)
        kept = tuple(places) if any(places) else ()
        return cls(image, question, answers, origin, system, kept, group, turns)

    @property
    def visuals(self) -> tuple[Visual, ...]:
        """The images and videos in their order, those of the earlier turns first."""
        return (*(visual for turn in self.turns for visual in turn.visuals), *self._own)

    @property
    def images(self) -> tuple[Picture, ...]:
        """The images alone, in their order."""
        return tuple(one for one in self.visuals if not isinstance(one, Video))

    @property
    def videos(self) -> tuple[Video, ...]:
        """The videos alone, in their order."""
        return tuple(one for one in self.visuals if isinstance(one, Video))

    @property
    def _own(self) -> tuple[Visual, ...]:
        if self.image is None:
            return ()
        return (self.image,) if isinstance(self.image, Visual) else tuple(self.image)

    @property
    def parts(self) -> tuple[str | Visual, ...]:
        """Texts, images and videos of the question in their order; no text is empty."""
        found: list[str | Visual] = []
        start = 0
        for visual, place in zip(self._own, self.places or (0,) * len(self._own), strict=True):
            found += [self.question[start:place], visual]
            start = place
        return tuple(part for part in (*found, self.question[start:]) if part != "")


@dataclass(frozen=True)
class LinearStats:
    """Statistics of a linear's inputs during calibration.

    `second_moments[modality]` is the mean of x xᵀ over the tokens of that modality, (in, in) float32,
    undamped; `tokens[modality]` counts them. A modality that never reached the linear is absent from both.
    If every token counts the same, there is one moment of all tokens, "all", in half the memory.
    If the full-precision model ran as well, `residuals[modality]` is the mean of (x̂ - x) xᵀ, (in, in)
    float32; x̂ is the input of the linear in the full-precision model.

    If gradients were measured (calibration/gradients.py): `visual_share` is the visual tokens' share of the
    squared gradients of the linear's outputs, 0…1; `fisher` (out, in) float32 is the squared gradient of
    every weight, summed over the samples, for quantizers that ask for it (`needs_fisher`).

    `inputs` (t, in) float32 are some of the inputs, evenly spread over the tokens, and `inputs_visual` (t,)
    bool marks the visual ones, for quantizers that ask for them (`needs_inputs`).

    `seen` says how many tokens reached an expert of a mixture; its moments are mixed with those of all
    experts of the layer, and `tokens` counts both. None for every other linear.

    Statistics that are `joined_by` a weight have no moments by modality: `joined` has that of all tokens, by
    the weight, and `upper` the row blocks of the upper half of that in which every token counts once.
    """

    second_moments: Mapping[Modality, Tensor]
    tokens: Mapping[Modality, float]
    residuals: Mapping[Modality, Tensor] | None = None
    visual_share: float | None = None
    fisher: Tensor | None = None
    inputs: Tensor | None = None
    inputs_visual: Tensor | None = None
    seen: int | None = None
    joined: Mapping[ModalityWeight, Tensor] = field(default_factory=dict)
    upper: tuple[Tensor, ...] = ()

    @property
    def device(self) -> Any:
        """The torch.device of the second moments."""
        return next(iter((*self.second_moments.values(), *self.joined.values()))).device

    def to(self, device: Any) -> LinearStats:
        """The same statistics with all tensors on a torch.device."""

        def moved(moments: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
            return {key: moment.to(device) for key, moment in moments.items()}

        alone = ("fisher", "inputs", "inputs_visual")
        found = {name: getattr(self, name) for name in alone}
        return replace(
            self,
            second_moments=moved(self.second_moments),
            residuals=None if self.residuals is None else moved(self.residuals),
            joined=moved(self.joined),
            upper=tuple(block.to(device) for block in self.upper),
            **{name: None if tensor is None else tensor.to(device) for name, tensor in found.items()},
        )

    @property
    def hessian(self) -> Tensor:
        """Mean of x xᵀ over all tokens, each token counting once: (in, in) float32, undamped."""
        return self.second_moment("tokens")

    def second_moment(self, weight: ModalityWeight) -> Tensor:
        """The modalities' second moments joined: (in, in) float32, undamped.

        "tokens": every token counts once, so the many visual ones dominate; "balanced": every modality
        that is present counts the same; a number in 0…1: the visual tokens together have this weight, the
        text tokens the rest; "gradient": this weight is `visual_share`. If one modality is absent, the other
        is used alone. Raises ValueError for "gradient" without a `visual_share`, and if they are joined by
        another weight.
        """
        if weight in self.joined:
            return self.joined[weight]
        if not self.joined:
            return self._joined(self.second_moments, weight)
        if weight != "tokens":
            raise ValueError(f"the second moments were joined by {[*self.joined]}, and not by {weight!r}")
        whole, start = next(iter(self.joined.values())).clone(), 0
        for block in self.upper:
            end = start + len(block)
            whole[start:end, start:] = block
            whole[end:, start:end] = block[:, len(block) :].T
            start = end
        return whole

    def joined_by(self, weight: ModalityWeight) -> LinearStats:
        """Statistics for whoever looks at `hessian` and at `second_moment(weight)` alone: these two, to the
        bit, in three quarters of the memory. The latter takes the place of one modality's moment. Of two
        modalities, with moments that are symmetric outside the squares of JOINED_ROWS on their diagonal.
        """
        moments, upper = dict(self.second_moments), list[Any]()
        place = next(iter(moments.values()))
        for start in range(0, len(place), JOINED_ROWS):
            rows = slice(start, start + JOINED_ROWS)
            part: dict[Modality, Tensor] = {modality: moment[rows] for modality, moment in moments.items()}
            upper.append(self._joined(part, "tokens")[:, start:].contiguous())
            place[rows] = self._joined(part, weight)
        return replace(self, second_moments={}, joined={weight: place}, upper=tuple(upper))

    def residual(self, weight: ModalityWeight) -> Tensor | None:
        """The modalities' residuals joined in the same way, (in, in) float32; None if the full-precision
        model did not run.
        """
        return None if self.residuals is None else self._joined(self.residuals, weight)

    def _joined(self, moments: Mapping[Modality, Tensor], weight: ModalityWeight) -> Tensor:
        present = list(moments)
        if len(present) == 1:
            return moments[present[0]]
        if weight == "tokens":
            share = {modality: float(self.tokens[modality]) for modality in present}
        else:
            visual = self._visual_weight(weight)
            share = {"visual": visual, "text": 1.0 - visual}
        total = sum(share[modality] for modality in present)
        joined = moments[present[0]] * (share[present[0]] / total)
        for modality in present[1:]:
            joined.add_(moments[modality], alpha=share[modality] / total)
        return joined

    def _visual_weight(self, weight: Literal["balanced", "gradient"] | float) -> float:
        if weight == "balanced":
            return 0.5
        if weight != "gradient":
            return float(weight)
        if self.visual_share is None:
            raise ValueError("the visual tokens' share of the gradients was not measured")
        return self.visual_share
