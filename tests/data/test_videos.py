"""The frames of every kind of video, which of them are read, and what is said about those that cannot be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from bivlm.data.digests import Digests
from bivlm.data.halves import TEST, TRAIN
from bivlm.data.places import find_video
from bivlm.data.samples import read_samples, shuffle_images
from bivlm.data.videos import FRAME_RATE, open_video, open_visuals, shown_image, spaced
from bivlm.errors import InputError
from bivlm.types import MOST_FRAMES, Clip, Sample, Video
from videos import animation, folder_of, shade_of, shades


def written(folder: Path, *records: dict[str, Any]) -> Path:
    file = folder / "d.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def shades_in(clip: Clip) -> list[int]:
    return [round(shade_of(frame)) for frame in clip.frames]


@pytest.mark.parametrize(
    ("count", "most", "numbers"),
    [
        (3, 8, (0, 1, 2)),
        (8, 8, tuple(range(8))),
        (9, 3, (0, 4, 8)),
        (100, 4, (0, 33, 66, 99)),
        (5, 2, (0, 4)),
        (5, 1, (0,)),
        (1, 1, (0,)),
    ],
)
def test_frames_are_evenly_spaced_with_the_first_and_the_last(count, most, numbers):
    assert spaced(count, most) == numbers


def test_a_list_of_frames_is_read_in_its_order():
    clip = open_video(Video(tuple(shades(12)), most=4))
    assert (clip.numbers, clip.total, clip.fps) == ((0, 4, 7, 11), 12, FRAME_RATE)
    assert shades_in(clip) == [0, 4, 7, 11]
    assert open_video(Video(tuple(shades(12)), fps=3.5)).fps == 3.5


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_an_animation_is_read_frame_by_frame_with_its_rate(tmp_path, name):
    settings = {"lossless": True} if name == "a.webp" else {}
    path = animation(tmp_path / name, 12, duration=200, **settings)
    clip = open_video(Video(path, most=3))
    assert (shades_in(clip), clip.numbers, clip.total) == ([0, 6, 11], (0, 6, 11), 12)
    assert clip.fps == pytest.approx(5)
    with Image.open(path) as held:
        assert shades_in(open_video(Video(held, most=3))) == [0, 6, 11]
        assert held.tell() == 0, "what is given is not changed"


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
def test_transparent_frames_are_put_on_white_one_by_one(tmp_path, name):
    drawn = []
    for number in range(4):
        drawn.append(Image.new("RGBA", (32, 8)))
        ImageDraw.Draw(drawn[-1]).rectangle((8 * number, 0, 8 * number + 7, 7), fill="black")
    settings = {"disposal": 2} if name == "a.gif" else {}
    drawn[0].save(tmp_path / name, save_all=True, append_images=drawn[1:], duration=100, **settings)
    for number, frame in enumerate(open_video(Video(tmp_path / name)).frames):
        seen = [frame.getpixel((8 * place + 4, 4)) for place in range(4)]
        assert seen == [(0, 0, 0) if place == number else (255, 255, 255) for place in range(4)]


def test_an_image_that_does_not_move_is_a_video_of_one_frame(shelf):
    clip = open_video(Video(shelf / "3.png"))
    assert (len(clip.frames), clip.total, clip.fps) == (1, 1, FRAME_RATE)


def test_a_folder_holds_frames_in_the_order_of_their_numbers(tmp_path):
    folder = folder_of(tmp_path / "clip", 12)
    (folder / "notes.txt").write_text("no frame")
    (folder / ".hidden.png").write_bytes(b"no image")
    video = find_video("clip", "d.jsonl:1", tmp_path)
    assert isinstance(video.source, tuple)
    assert len(video.source) == 12
    assert shades_in(open_video(Video(video.source, most=4))) == [0, 4, 7, 11]
    assert shade_of(shown_image(video)) == 0


@pytest.fixture
def encoded(tmp_path) -> Path:
    """A video file of 11 shades at 5 frames per second."""
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'bivlm[video]'")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
        for frame in shades(11):
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return tmp_path / "clip.mp4"


def test_a_video_file_is_decoded_where_pyav_is_installed(encoded):
    clip = open_video(Video(encoded, most=3))
    assert (shades_in(clip), clip.numbers, clip.total, clip.fps) == ([0, 5, 10], (0, 5, 10), 11, 5)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda whole: whole[:600], id="cut"),
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n", id="playlist"),
    ],
)
def test_a_damaged_video_file_is_told(encoded, content):
    encoded.write_bytes(content(encoded.read_bytes()))
    said = r"d\.jsonl:3: the video .*clip\.mp4 (cannot be read as a video \(|holds no pictures)"
    with pytest.raises(InputError, match=said):
        open_video(Video(encoded), "d.jsonl:3")


def test_a_video_file_without_pyav_says_what_to_install_or_do(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"\0")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError) as caught:
        open_video(Video(tmp_path / "clip.mp4"), "d.jsonl:3")
    assert (
        str(caught.value)
        == f"d.jsonl:3: the video {tmp_path}/clip.mp4 is a video file, and PyAV, which reads it, is not"
        " installed (pip install 'bivlm[video]'); or give its frames as a folder of images"
    )


def test_frames_of_different_sizes_are_refused():
    first, second = shades(2)
    with pytest.raises(InputError, match=r"different sizes, 48x40 and 40x48 \(frame 2\); make them alike"):
        open_video(Video((first, second, second.rotate(90, expand=True))), "here")


def test_a_corrupt_frame_is_named(shelf):
    (shelf / "bad.png").write_bytes((shelf / "0.png").read_bytes()[:40])
    with pytest.raises(InputError, match=r"here: the video, frame 1: the image .*bad\.png cannot be read"):
        open_video(Video((shelf / "0.png", shelf / "bad.png")), "here")


def test_a_cut_animation_and_what_is_no_file_are_told(tmp_path):
    path = animation(tmp_path / "a.gif", 6)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"the video .*a\.gif cannot be read"):
        open_video(Video(path))
    for name in ("none.gif", "none.mp4"):
        with pytest.raises(InputError, match=rf"the video .*{name} does not exist"):
            open_video(Video(tmp_path / name))


@pytest.mark.parametrize("wrong", [{"source": ()}, {"most": 0}, {"fps": 0.0}, {"fps": float("inf")}])
def test_a_video_that_makes_no_sense_is_no_video(wrong):
    with pytest.raises(ValueError, match="a video needs 1 frame"):
        Video(**{"source": (Path("a.png"),), **wrong})


def test_records_hold_videos_in_every_way(shelf):
    folder_of(shelf / "clip", 3)
    animation(shelf / "a.gif", 4)
    file = written(
        shelf,
        {"video": "clip", "question": "1?"},
        {"video": ["1.png", "2.png"], "question": "2?", "fps": 1},
        {"videos": ["a.gif", ["3.png"]], "question": "3?"},
        {"image": "0.png", "video": {"path": "a.gif"}, "question": "4?"},
        {"question": [{"type": "text", "text": "Is "}, {"type": "video", "video": "clip", "fps": 4}]},
        {"videos": [], "question": "6?"},
    )
    one, two, three, four, five, six = read_samples(file, max_frames=2)
    frames = tuple(shelf / "clip" / f"frame{number}.png" for number in range(3))
    assert one.visuals == (Video(frames, 2),)
    assert two.videos == (Video((shelf / "1.png", shelf / "2.png"), 2, 1.0),)
    assert three.videos == (Video(shelf / "a.gif", 2), Video((shelf / "3.png",), 2))
    assert four.visuals == (shelf / "0.png", Video(shelf / "a.gif", 2))
    assert five.parts == ("Is ", Video(frames, 2, 4.0))
    assert six.visuals == ()
    assert read_samples(file)[0].videos[0].most == MOST_FRAMES
    assert all(not sample.visuals for sample in read_samples(file, images=False))
    assert [len(clip.frames) for clip in open_visuals([two])[0]] == [2]
    assert len(read_samples(file, image_required=True)) == 5
    chosen = written(shelf, {"video": "clip", "question": "7?", "choices": ["a", "b"], "answer": 1})
    assert read_samples(chosen, max_frames=2)[0].visuals == (Video(frames, 2),)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"video": []}, "'video' has no frames; give one image or more"),
        ({"video": "empty"}, "the folder empty has no frames"),
        ({"video": 3}, "'video' must be the path of a video, or a list of its frames, and is the number 3"),
        ({"videos": "a.gif"}, "'videos' must be a list of videos"),
        ({"video": "a.gif", "videos": []}, "both 'video' and 'videos' are there"),
        ({"video": "https://x.org/a.mp4"}, "nothing is fetched"),
        ({"video": "none.mp4"}, "there is no video file"),
        ({"video": ["0.png", "none.png"]}, "there is no video file"),
        ({"video": ["0.png"], "fps": 0}, "'fps' must be a number of frames per second above 0"),
        ({"video": ["0.png"], "fps": True}, "'fps' must be a number"),
    ],
    ids=str,
)
def test_mistakes_in_records_are_named(shelf, record, said):
    (shelf / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        read_samples(written(shelf, {"question": "1?", **record}))
    assert said in str(caught.value)
    assert "d.jsonl:1" in str(caught.value)


@pytest.mark.parametrize("most", [0, 5000])
def test_a_number_of_frames_that_makes_no_sense_is_refused(shelf, most):
    with pytest.raises(InputError, match=f"--max-frames is {most}; give a number from 1 to 1024"):
        read_samples(written(shelf, {"video": ["0.png"], "question": "1?"}), max_frames=most)


def test_videos_stay_in_the_folder_that_they_are_confined_to(shelf):
    folder_of(shelf / "clip", 2)
    (shelf / "clip" / "frame2.png").symlink_to(shelf / "0.png")
    file = written(shelf, {"video": "clip", "question": "1?"})
    assert len(read_samples(file, data_root=shelf)[0].videos[0].source) == 3
    with pytest.raises(InputError, match="lies outside"):
        read_samples(file, data_root=shelf / "clip")
    (shelf / "inner").mkdir()
    (shelf / "inner" / "d.jsonl").write_bytes(file.read_bytes())
    assert len(read_samples(shelf / "inner" / "d.jsonl", data_root=shelf)[0].videos[0].source) == 3


def test_all_frames_of_a_video_are_on_one_side_of_a_set_without_splits(shelf):
    file = written(
        shelf,
        *({"video": [f"{n}.png", f"{n + 4}.png"], "question": f"{n}?", "answer": "a"} for n in range(4)),
    )
    train, test = (read_samples(file, split=split) for split in (TRAIN, TEST))
    assert (len(train), len(test)) == (1, 3)


def test_a_video_is_known_by_its_content(shelf):
    digests = Digests()
    (shelf / "copy.png").write_bytes((shelf / "0.png").read_bytes())
    one = Sample(Video((shelf / "0.png", shelf / "1.png")), "Why?")
    same = Sample(Video((shelf / "copy.png", shelf / "1.png"), most=1), "Why?")
    other = Sample(Video((shelf / "1.png", shelf / "0.png")), "Why?")
    images = Sample((shelf / "0.png", shelf / "1.png"), "Why?")
    for named in (digests.of_images, digests.of_question):
        assert named(one) == named(same)
        assert len({named(one), named(other), named(images)}) == 3
    assert digests.of_sample(one) != digests.of_sample(same), "other frames of it are read"


def test_shuffling_gives_every_video_another_one(shelf):
    images = [Sample(shelf / f"{n}.png", f"{n}?") for n in range(2)]
    videos = [Sample(Video((shelf / f"{n}.png", shelf / "7.png")), f"{n}?") for n in range(3)]
    before = [*images, *videos]
    after = shuffle_images(before)
    assert all(one.visuals != other.visuals for one, other in zip(before, after, strict=True))
    assert [len(one.videos) for one in after] == [0, 0, 1, 1, 1]
    with pytest.raises(InputError, match="needs two that differ, and so do videos"):
        shuffle_images([*images, videos[0]])
