"""From the video of a sample to frames for a processor, and from all that a sample shows to pixels.

    an image for each frame     opened like any image
    GIF, WebP, PNG              an animation: Pillow reads its frames
    .mp4, .webm, .mkv, …        PyAV decodes them, where it is installed

Of a video with more frames than are wanted some are read, evenly spaced, the first and the last among them.
Frames of one video have one size: every processor stacks them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from bivlm.data.colours import to_rgb
from bivlm.data.files import why_no_file
from bivlm.data.images import DAMAGED, MAX_PIXELS, check_file, errors_named, open_image, undecoded
from bivlm.errors import InputError, cut
from bivlm.types import Clip, Picture, Sample, Video, Visual

FRAME_RATE = 2.0  # frames per second, where neither the file nor the data says it: Qwen-VL samples so many
MOST_COUNTED = 1 << 20  # frames of one file
# what FFmpeg calls the formats; no other is tried, since some (playlists) name further files and addresses
VIDEO_FORMATS = {
    **dict.fromkeys((".mp4", ".m4v", ".mov"), "mp4"),
    **dict.fromkeys((".webm", ".mkv"), "matroska"),
    ".avi": "avi",
}
INSTALL = "pip install 'bivlm[video]'"


def open_visuals(samples: Sequence[Sample], wanted: bool = True) -> list[tuple[Image.Image | Clip, ...]]:
    """The images and videos of every sample, opened; none at all if the model reads no images. Raises
    InputError as `open_image` and `open_video`.
    """
    if not wanted:
        return []
    return [tuple(_opened(one, sample.origin) for one in sample.visuals) for sample in samples]


def _opened(visual: Visual, origin: str) -> Image.Image | Clip:
    return open_video(visual, origin) if isinstance(visual, Video) else open_image(visual, origin)


def shown_image(visual: Visual, origin: str = "") -> Image.Image:
    """What a picture of a sample shows: an image, or the first frame of a video. Raises InputError as
    `open_image` and `open_video`.
    """
    if not isinstance(visual, Video):
        return open_image(visual, origin)
    return open_video(Video(visual.source, most=1, fps=visual.fps), origin).frames[0]


def open_video(video: Video, origin: str = "") -> Clip:
    """The frames of a video that are wanted, each upright 8-bit RGB. What is given is not changed.

    Raises InputError, naming `origin` and the file or the frame, for what `open_image` refuses in an image,
    for a video file that cannot be decoded or without PyAV, and for frames of different sizes.
    """
    where = f"{origin}: the video" if origin else "the video"
    if isinstance(video.source, tuple):
        numbers = spaced(len(video.source), video.most)
        frames = [open_image(video.source[number], f"{where}, frame {number}") for number in numbers]
        clip = Clip(tuple(frames), numbers, len(video.source), video.fps or FRAME_RATE)
    elif isinstance(video.source, Path) and video.source.suffix.lower() in VIDEO_FORMATS:
        clip = _decoded(video.source, video, f"{where} {cut(str(video.source), 200)}")
    else:
        clip = _animation(video.source, video, where)
    odd = next((number for number, frame in enumerate(clip.frames) if frame.size != clip.frames[0].size), 0)
    if odd:
        sizes = [f"{width}x{height}" for width, height in (clip.frames[0].size, clip.frames[odd].size)]
        raise InputError(
            f"{where} has frames of different sizes, {sizes[0]} and {sizes[1]} (frame {clip.numbers[odd]});"
            " make them alike, or give them as images"
        )
    return clip


def spaced(count: int, most: int) -> tuple[int, ...]:
    """At most `most` of the numbers 0 … count - 1, evenly spaced, the first and the last among them; of one
    the first.
    """
    if count <= most:
        return tuple(range(count))
    return tuple(round(number * (count - 1) / max(most - 1, 1)) for number in range(most))


def _animation(picture: Picture, video: Video, where: str) -> Clip:
    """The frames of an animation; an image that does not move is a video of one frame."""
    where = f"{where} {cut(str(picture), 200)}" if isinstance(picture, Path) else where
    if isinstance(picture, Path):
        check_file(picture, where)
    with errors_named(where), undecoded(picture) as image:
        total, before = getattr(image, "n_frames", 1), image.tell()
        if total > MOST_COUNTED:
            raise InputError(f"{where} has {total} frames, and at most {MOST_COUNTED} are read; cut it")
        numbers, frames, shown = spaced(total, video.most), [], []
        for number in numbers:
            if total > 1:
                image.seek(number)
            frames.append(to_rgb(image if total == 1 else image.copy()))
            shown.append(image.info.get("duration") or 0)  # milliseconds
        if total > 1:
            image.seek(before)
    timed = total > 1 and all(shown)
    own = 1000 * len(shown) / sum(shown) if timed else FRAME_RATE
    return Clip(tuple(frames), numbers, total, video.fps or own)


def _decoded(path: Path, video: Video, where: str) -> Clip:
    """The frames of a video file, by PyAV."""
    wrong = why_no_file(path)
    if wrong:
        raise InputError(f"{where} {wrong}; correct the path or leave the sample out")
    try:
        import av  # pyright: ignore[reportMissingImports]
        from av.error import FFmpegError  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise InputError(
            f"{where} is a video file, and PyAV, which reads it, is not installed ({INSTALL}); or give its"
            " frames as a folder of images"
        ) from error
    try:
        with path.open("rb") as file, av.open(file, format=VIDEO_FORMATS[path.suffix.lower()]) as container:
            return _frames(container, video, where)
    except InputError:
        raise
    except (FFmpegError, *DAMAGED) as error:
        said = cut(str(error).strip().partition("\n")[0], 200)
        raise InputError(f"{where} cannot be read as a video ({said}); replace it, or give frames") from error


def _frames(container: Any, video: Video, where: str) -> Clip:
    """The wanted frames of an opened file. They are counted first: many files do not say how many there
    are.
    """
    stream = next(iter(container.streams.video), None)
    if stream is None:
        raise InputError(f"{where} holds no pictures; give another file")
    if stream.width * stream.height > MAX_PIXELS:
        raise InputError(f"{where} has frames of more than {MAX_PIXELS} pixels; make it smaller")
    total = sum(bool(packet.size) for packet in container.demux(stream))
    container.seek(0)
    numbers, rate = spaced(total, video.most), float(stream.average_rate or FRAME_RATE)
    found = dict(_picked(container.decode(stream), numbers))
    if not found:
        raise InputError(f"{where} has no frame that can be decoded; replace it, or give frames")
    return Clip(tuple(found.values()), tuple(found), max(total, *found), video.fps or rate)


def _picked(frames: Iterator[Any], numbers: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    """The frames with these numbers, as RGB; if there are fewer frames than packets, the last one too."""
    wanted, number, frame = set(numbers), -1, None
    for number, frame in enumerate(frames):
        if number in wanted:
            yield number, frame.to_image()
            wanted.remove(number)
        if not wanted:
            return
    if frame is not None:
        yield number, frame.to_image()


def is_held(visual: Visual) -> bool:
    """Whether a sample holds the pixels themselves, or a part of them, and no path to them."""
    source = visual.source if isinstance(visual, Video) else visual
    return not all(isinstance(one, Path) for one in (source if isinstance(source, tuple) else (source,)))


def files_of(visual: Visual) -> list[Path]:
    """The files of an image or video."""
    source = visual.source if isinstance(visual, Video) else visual
    return [one for one in (source if isinstance(source, tuple) else (source,)) if isinstance(one, Path)]
