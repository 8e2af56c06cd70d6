"""Hostile images and the places they come from: one line, little memory, nothing fetched or started."""

from __future__ import annotations

import base64
import io
import json
import os
import resource
import struct
import zlib
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from bivlm.data import images, places
from bivlm.data.images import open_image
from bivlm.data.samples import read_samples
from bivlm.data.videos import open_visuals
from bivlm.errors import InputError


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def small(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, kind)
    return buffer.getvalue()


def refusal(image: str, folder: Path, **options) -> str:
    """What is said about an image that a JSONL file names, when it is listed or opened."""
    (folder / "d.jsonl").write_text(json.dumps({"image": image, "question": "What?"}) + "\n")
    with pytest.raises(InputError) as caught:
        open_visuals(read_samples(folder / "d.jsonl", **options))
    message = str(caught.value)
    assert message.startswith("d.jsonl:1: ")
    assert message.isprintable()
    assert len(message) < 500
    return message


# ---- bombs


@cache
def one_gib() -> bytes:
    """Zeros, compressed."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush()


@pytest.mark.parametrize(
    "kind", [b"zTXtk\0\0", b"iTXtk\0\1\0\0\0", b"iCCPk\0\0"], ids=["zTXt", "iTXt", "iCCP"]
)
@pytest.mark.parametrize("place", [33, -12], ids=["before the pixels", "after the pixels"])
def test_a_text_of_one_gib_is_refused_in_little_memory(kind: bytes, place: int, tmp_path: Path):
    content = small()
    hostile = content[:place] + chunk(kind[:4], kind[4:] + one_gib()) + content[place:]
    (tmp_path / "a.png").write_bytes(hostile)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "cannot be read as an image (Decompressed data too large" in refusal("a.png", tmp_path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 2 * len(hostile) + (16 << 20)


@pytest.mark.parametrize(
    ("kind", "place", "pattern"),
    [("PNG", 16, ">II"), ("BMP", 18, "<ii"), ("GIF", 6, "<HH"), ("PPM", 3, "")],
)
def test_sizes_are_compared_before_pixels_are_decoded(kind: str, place: int, pattern: str, tmp_path: Path):
    content = bytearray(small(kind))
    if kind == "PPM":
        content = content.replace(b"8 8", b"50000 50000")
    else:
        struct.pack_into(pattern, content, place, 50_000, 50_000)
    if kind == "PNG":
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "big").write_bytes(content)
    assert "has more than 89478485 pixels" in refusal("big", tmp_path)


def test_a_frame_that_is_larger_than_the_screen_counts_too(tmp_path: Path):
    content = bytearray(small("GIF"))
    frame = content.index(b",\0\0\0\0")
    struct.pack_into("<HH", content, frame + 5, 60_000, 60_000)
    (tmp_path / "big.gif").write_bytes(content)
    assert "has more than 89478485 pixels" in refusal("big.gif", tmp_path)


# ---- what is no plain image


def test_postscript_does_not_reach_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("started"))
    (tmp_path / "x.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.eps").read_bytes())
    for name in ("x.eps", "x.png"):
        assert "it is none of JPEG, PNG" in refusal(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fifo", "it is a pipe, and no file"),
        ("/dev/zero", "it is a device, and no file"),
        (".", "it is a folder, and no file"),
        ("a.png\0", "it is no path"),
        ("a" * 300, "it cannot be reached (File name too long)"),
        ("a/" * 3000, "it cannot be reached (File name too long)"),
        ("loop", "it cannot be reached (Too many levels of symbolic links)"),
        ("gone", "there is no image file"),
        ("\x1b[31mred", r"\x1b[31mred; paths are relative"),
        ("http://example.org/a.png", "the image is a URL, http://example.org/a.png; nothing is fetched"),
        ("HTTPS://example.org/" + "a" * 5000, "the image is a URL, HTTPS://example.org/aaa"),
        ("s3://bucket/a.png", "the image is a URL, s3://bucket/a.png; nothing is fetched"),
        ("file:///tmp/a.png", "the image is a URL, file:///tmp/a.png; give the path without file://"),
        ("file:/tmp/a.png", "the image is a URL, file:/tmp/a.png; give the path without file://"),
    ],
    ids=lambda value: value[:20],
)
def test_a_place_without_an_image_is_told_in_one_short_line(name: str, said: str, tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    assert said in refusal(name, tmp_path)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo.png")
    with pytest.raises(InputError, match="is a pipe"):
        open_image(tmp_path / "fifo.png")


# ---- data URIs


def uri(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_data_uri_is_read(kind: str, tmp_path: Path):
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps({"image": uri(small(kind), f"image/{kind}"), "question": "What?"}) + "\n")
    sample = read_samples(file)[0]
    for _ in range(2):
        assert open_visuals([sample])[0][0].getpixel((0, 0))[0] > 250


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (uri(b"no image" * 1000), "it is none of JPEG, PNG"),
        (uri(small())[:-50] + "!", "a data URI with damaged base64"),
        ("data:image/png;base64," + "A" * 9001, "a data URI with damaged base64"),
        ("data:image/svg+xml,<svg/>", "a data URI that is not base64, data:image/svg+xml,<svg/>;"),
        ("data:" + "x" * 9000, "a data URI that is not base64"),
        (base64.b64encode(small()).decode(), "the image is base64 without its type, iVBORw0KGgo"),
        (base64.b64encode(small("JPEG") * 9).decode(), "the image is base64 without its type, /9j/"),
    ],
    ids=range(7),
)
def test_a_data_uri_that_cannot_be_read_is_cut(image: str, said: str, tmp_path: Path):
    message = refusal(image, tmp_path)
    assert said in message
    assert len(image) < 70 or image[:70] not in message


def test_a_data_uri_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(places, "MAX_URI_BYTES", 30)
    assert "an image may have 0 MiB" in refusal(uri(small()), tmp_path)


def test_a_postscript_in_a_data_uri_is_refused(tmp_path: Path):
    assert "it is none of JPEG" in refusal(
        uri(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), tmp_path
    )


# ---- --data-root


def test_paths_stay_in_the_root(tmp_path: Path):
    inside, outside = tmp_path / "in" / "deep", tmp_path / "in-not"
    inside.mkdir(parents=True)
    outside.mkdir()
    for folder in (inside, outside):
        (folder / "a.png").write_bytes(small())
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "folder").symlink_to(outside)
    (inside / "back.png").symlink_to("../deep/a.png")
    root = inside.parent
    for name in ("a.png", "../deep/a.png", str(inside / "a.png"), "back.png", uri(small())):
        (inside / "d.jsonl").write_text(json.dumps({"image": name, "question": "What?"}) + "\n")
        sample = read_samples(inside / "d.jsonl", data_root=root)[0]
        assert open_visuals([sample])[0][0].size == (8, 8)
    for name in ("../../in-not/a.png", str(outside / "a.png"), "link.png", "folder/a.png", "/etc/passwd"):
        assert f"lies outside {root}, the folder given with --data-root" in refusal(
            name, inside, data_root=root
        )
    with pytest.raises(InputError, match=r"--data-root .*nowhere does not exist"):
        read_samples(inside / "d.jsonl", data_root=tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"--data-root .*a\.png is no folder"):
        read_samples(inside / "d.jsonl", data_root=inside / "a.png")


def test_paths_of_a_saved_data_set_stay_in_the_root(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "a.png").write_bytes(small())
    rows = {"image": ["../a.png"], "question": ["What?"]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    assert read_samples(tmp_path / "set", data_root=tmp_path)[0].image == tmp_path / "a.png"
    with pytest.raises(InputError, match=r"set:0: the image .* lies outside"):
        read_samples(tmp_path / "set", data_root=tmp_path / "set")


def test_bytes_in_a_saved_data_set_are_read_as_listed_formats_alone(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n", "path": None}], "question": ["What?"]}
    features = datasets.Features({"image": datasets.Image(), "question": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    with pytest.raises(InputError, match=r"set:0: the image .*it is none of JPEG"):
        read_samples(tmp_path / "set")


# ---- shapes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[{"image": "a.png", "question": "q", "answer": 1}, 3]',
            "d.jsonl[1]: each entry must be an object, and is the",
        ),
        ('[\n {"image": "a.png", "question": "q"}', "d.jsonl:2: not JSON (Expecting ',' delimiter at column"),
        ('{\n "image": "a.png", "que": "q"\n}', "d.jsonl[0]: neither 'answer' nor 'answers' is there"),
        ('{\n "rows": [1], "que": "q"\n}', "d.jsonl is an object with no list of records (it has rows, que)"),
        (
            '{"image": "a.png", "conversations": [{"from": "human"}]}',
            "d.jsonl:1: 'value' of a turn must be a text, and is null",
        ),
        (
            '{"image": "a.png", "messages": [{"role": "tool"}]}',
            "d.jsonl:1: a turn of 'messages' is from 'tool'",
        ),
        ('{"images": "a.png", "question": "q"}', "'images' must be a list of texts, and is a str"),
        ('{"images": [1], "question": "q"}', "an entry of 'images' must be a text, and is the number 1"),
        ('{"images": [], "image": "a.png", "question": "q"}', "both 'image' and 'images' are there"),
        ('{"image": [["a.png"]], "question": "q"}', "an entry of 'image' must be a text, and is a list"),
        ('{"image": {"bytes": "AAAA"}, "question": "q"}', "'image' must be a text, and is an object"),
        ("[" * 100_000, "d.jsonl:1: not JSON"),
        ('{"x": ' + "9" * 5000 + "}", "d.jsonl:1: not JSON"),
        ("\0\0", "d.jsonl:1: not JSON"),
        ("image,question\na.png,q", "d.jsonl:1: not JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_the_shape_of_a_file_is_named(text: str, said: str, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(small())
    (tmp_path / "d.jsonl").write_text(text)
    with pytest.raises(InputError) as caught:
        read_samples(tmp_path / "d.jsonl", answers_required=True)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_line_without_an_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from bivlm.data.containers import json_lines

    monkeypatch.setattr(json_lines, "LINE_BYTES", 100)
    (tmp_path / "d.jsonl").write_text('{"image": "' + "a" * 1000)
    with pytest.raises(InputError, match=r"d\.jsonl:1: a line of over 0 MiB"):
        read_samples(tmp_path / "d.jsonl")


def test_the_limits_that_the_documents_state():
    assert images.MAX_PIXELS == 89_478_485
    assert images.MAX_FILE_BYTES == 512 << 20
    assert places.MAX_URI_BYTES == 64 << 20
