"""Videos in the form that processors take them: frames that were chosen before, with the times that they are
from.

    Clip ─ frames, video_metadata, do_sample_frames=False ─► processor ─► pixels, and tokens in the prompt

A processor that takes no videos refuses them here; nothing turns a video into images by itself. What a
processor or a model cannot do with videos (mix them with images, stack unlike ones) is refused as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bivlm.errors import InputError
from bivlm.families.pixel_ways import counts_frames
from bivlm.families.pixels import fitted_frame
from bivlm.families.prompts import name_of, names_of
from bivlm.types import Clip, Sample

if TYPE_CHECKING:
    from bivlm.families.base import Family

TOKENS = ("video_token_id", "video_token_index")  # what configs call the id of a video's visual tokens
PIXELS = "pixel_values_videos"  # where a video's pixels are not among those of images
INSTEAD = "give its frames as images (--image for each)"


def video_token(config: Any) -> int | None:
    """The id of the visual tokens of videos, where the config names one."""
    named = (getattr(config, name, None) for name in TOKENS)
    return next((token for token in named if type(token) is int), None)


def check_videos(processor: Any, family: Family, samples: Sequence[Sample], config: Any) -> None:
    """InputError, naming the sample, for a question about a video that this model does not take."""
    filmed = next((sample for sample in samples if sample.videos), None)
    if filmed is None:
        return
    name = type(processor).__name__
    if getattr(processor, "video_processor", None) is None or not getattr(processor, "video_token", None):
        raise InputError(f"{name_of(filmed)}: {name} takes no videos; {INSTEAD}")
    named = processor.tokenizer.convert_tokens_to_ids(processor.video_token)
    if family.origin == "found" and video_token(config) != named:
        raise InputError(
            f"{name_of(filmed)}: no token for videos was found in this model's config, so its videos could"
            f" not be told from text; {INSTEAD}"
        )
    mixes = family.mixes_videos and family.origin != "found"
    if not mixes and any(sample.images for sample in samples):
        alone = not any(sample.images and sample.videos for sample in samples)
        advice = "use a batch size of 1" if alone else INSTEAD
        raise InputError(f"{names_of(samples)}: the model takes no images and videos together; {advice}")


def video_arguments(processor: Any, samples: Sequence[Sample], clips: Sequence[Clip]) -> dict[str, Any]:
    """What a processor is called with for the videos of a batch, in their order; nothing without any.

    Raises InputError, naming the samples, for videos with fewer frames than it takes, and for videos of
    different lengths that cannot share a batch.
    """
    if not clips:
        return {}
    name, least = type(processor).__name__, _least_frames(processor.video_processor)
    if any(len(clip.frames) < least for clip in clips):
        raise InputError(
            f"{names_of(samples)}: {name} takes videos of {least} frames or more; give more frames, or a"
            " frame as an image (--image)"
        )
    lengths = {len(clip.frames) for clip in clips}
    if len(lengths) > 1 and _stacks(processor.video_processor):
        told = " and ".join(map(str, sorted(lengths)))
        raise InputError(
            f"{names_of(samples)}: {name} takes videos of one length together, and these have {told} frames;"
            f" --max-frames {min(lengths)} makes them alike, and a batch size of 1 asks about each alone"
        )
    return {
        "videos": [[fitted_frame(processor, frame) for frame in clip.frames] for clip in clips],
        "video_metadata": [_metadata(clip) for clip in clips],
        "do_sample_frames": False,
    }


def _stacks(videos: Any) -> bool:
    """Whether a processor makes one tensor of whole videos, and says nothing of their lengths."""
    return all("pixel" in name for name in videos.model_input_names)


def _metadata(clip: Clip) -> dict[str, Any]:
    """Where the frames are from; the numbers are a new list, since a processor may lengthen it."""
    return {
        "total_num_frames": clip.total,
        "fps": clip.fps,
        "duration": clip.total / clip.fps,
        "width": clip.frames[0].width,
        "height": clip.frames[0].height,
        "frames_indices": list(clip.numbers),
    }


def _least_frames(videos: Any) -> int:
    """How many frames a video must have: those of a patch, where the processor counts pixels over frames."""
    return videos.temporal_patch_size if counts_frames(videos) else 1


def check_kept(
    processor: Any, batch: Mapping[str, Any], accepted: Iterable[str], samples: Sequence[Sample]
) -> None:
    """InputError if the pixels of videos are none of a model's arguments, so that it would not see them."""
    unseen = next((name for name in batch if "pixel" in name and name not in {*accepted}), None)
    if unseen is not None and any(sample.videos for sample in samples):
        raise InputError(
            f"{names_of(samples)}: {type(processor).__name__} takes videos, and the model does not"
            f" ({unseen}); {INSTEAD}"
        )
