"""Limits of the system, for real: file size, address space, a full disk, a read-only one. Each is one line,
and the same command continues when there is room.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import bivlm
from bivlm.errors import InputError
from bivlm.job.run import quantize
from reliability.jobs import REFUSED, content, in_child
from tiny.language import tiny_language_model

RTN = {"recipe": "rtn-2"}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    work = tmp_path_factory.mktemp("originals")
    source = tiny_language_model("llama", work / "source", torch.bfloat16)
    return source, quantize(source, work / "packed", **RTN)


@contextmanager
def limited(kind, size):
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts an empty tmpfs of some bytes, with options, over one folder."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True
        )
        if made.returncode:
            pytest.skip(f"this test may not mount a tmpfs: {made.stderr.strip()}")
        return place

    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    yield mount
    subprocess.run(["umount", str(place)], capture_output=True)


@pytest.mark.parametrize("size", [1, 100, 1000, 4096, 20_000, 50_000])
def test_file_size(size, originals, tmp_path, capfd):
    """ulimit -f"""
    source, packed = originals
    status = in_child(lambda: quantize(source, tmp_path / "out", **RTN), limited(resource.RLIMIT_FSIZE, size))
    assert os.waitstatus_to_exitcode(status) == REFUSED
    assert "ulimit -f" in capfd.readouterr().err
    quantize(source, tmp_path / "out", **RTN)
    assert content(tmp_path / "out") == content(packed)


@pytest.mark.parametrize("kilobytes", [4, 16, 40, 72, 100, 140, 180])
def test_a_full_disk(kilobytes, originals, small_disk, capfd):
    source, packed = originals
    place = small_disk(f"size={kilobytes}k")
    status = in_child(lambda: quantize(source, place / "out", **RTN))
    assert os.waitstatus_to_exitcode(status) == REFUSED
    assert "make room" in capfd.readouterr().err
    subprocess.run(["mount", "-o", "remount,size=8m", str(place)], check=True)
    quantize(source, place / "out", **RTN)
    assert content(place / "out") == content(packed)


def test_a_full_disk_while_a_model_is_replaced(originals, small_disk):
    source, packed = originals
    place = small_disk("size=8m")
    before = quantize(source, place / "out", recipe="rtn-3")
    expected = content(before)
    used = sum(path.stat().st_blocks * 512 for path in before.iterdir())
    subprocess.run(["mount", "-o", f"remount,size={used // 1024 + 60}k", str(place)], check=True)
    with pytest.raises(InputError, match="make room"):
        quantize(source, before, overwrite=True, **RTN)
    assert content(before) == expected
    bivlm.load(before)
    subprocess.run(["mount", "-o", "remount,size=8m", str(place)], check=True)
    quantize(source, before, overwrite=True, **RTN)
    assert content(before) == content(packed)


def test_a_read_only_disk(originals, small_disk):
    source, packed = originals
    place = small_disk("size=8m")
    shutil.copytree(packed, place / "done")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    with pytest.raises(InputError, match="read-only"):
        quantize(source, place / "out", **RTN)
    bivlm.load(place / "done")


@pytest.mark.parametrize("more", [0, 1 << 16, 1 << 20, 4 << 20, 16 << 20])
def test_little_memory(more, originals, tmp_path, capfd):
    """ulimit -v, of what the process has already and `more`: done, or one line."""
    source, packed = originals
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    jobs = [lambda: bivlm.load(packed), lambda: quantize(source, tmp_path / "out", **RTN)]
    for job in jobs:
        status = in_child(job, limited(resource.RLIMIT_AS, now + more))
        assert os.waitstatus_to_exitcode(status) in (0, REFUSED), capfd.readouterr().err
    quantize(source, tmp_path / "out", **RTN)
    assert content(tmp_path / "out") == content(packed)
