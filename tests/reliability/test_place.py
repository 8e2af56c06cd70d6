"""What a job may do to OUT: never lose a model, never touch what bivlm did not write, never follow a link."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time

import pytest
import torch

import bivlm
from bivlm.checkpoint import output as output_module
from bivlm.checkpoint.place import JOB_FOLDER
from bivlm.checkpoint.shards import INDEX_NAME
from bivlm.errors import InputError
from bivlm.job.run import quantize
from reliability.jobs import REFUSED, content, in_child, start
from tiny.language import tiny_language_model
from told import Told

RTN = {"recipe": "rtn-2"}
OTHER = {"recipe": "rtn-3"}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    work = tmp_path_factory.mktemp("originals")
    source = tiny_language_model("llama", work / "source", torch.bfloat16)
    return source, quantize(source, work / "two", **RTN), quantize(source, work / "three", **OTHER)


@pytest.fixture
def source(originals, tmp_path):
    return shutil.copytree(originals[0], tmp_path / "source")


@pytest.fixture
def out(originals, tmp_path):
    """A finished result of OTHER."""
    return shutil.copytree(originals[2], tmp_path / "out")


def interrupted(source, out, **settings):
    """Unfinished work: the first unit is written, then the user interrupts."""

    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(source, out, events=Told(stop), **settings)


class TestOverwrite:
    def test_the_old_model_works_until_the_new_one_is_complete(self, source, out):
        def look(report):
            bivlm.load(out)
            assert not (out / JOB_FOLDER).exists()

        quantize(source, out, overwrite=True, events=Told(look), **RTN)
        assert {path.name for path in out.parent.iterdir()} == {"out", "source"}

    def test_an_interrupted_one_continues_beside_the_old_model(self, source, out, originals):
        before = content(out)
        interrupted(source, out, overwrite=True, **RTN)
        assert content(out) == before
        told = Told()
        quantize(source, out, overwrite=True, events=told, **RTN)
        assert [report.resumed for report, *_ in told.units][:2] == [True, False]
        assert content(out) == content(originals[1])

    def test_a_link_is_not_followed(self, source, out):
        link = out.with_name("link")
        link.symlink_to(out)
        with pytest.raises(InputError, match="is a link to"):
            quantize(source, link, overwrite=True, **RTN)
        bivlm.load(out)

    def test_the_source_inside_out(self, source, out):
        inside = shutil.copytree(source, out / "models" / "source")
        with pytest.raises(InputError, match="contains the model"):
            quantize(inside, out, overwrite=True, **RTN)
        assert (inside / "model.safetensors").exists()

    @pytest.mark.parametrize("name", ["notes.pdf", "checkpoint-5/model.safetensors", "adapter.safetensors"])
    def test_a_file_that_bivlm_did_not_write(self, name, source, out):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
        with pytest.raises(InputError, match="which bivlm did not write"):
            quantize(source, out, overwrite=True, **RTN)
        assert (out / name).read_text() == "mine"

    def test_a_file_that_came_while_the_job_ran(self, source, out):
        def arrives(report):
            (out / "notes.pdf").write_text("mine")

        with pytest.raises(InputError, match="which bivlm did not write"):
            quantize(source, out, overwrite=True, events=Told(arrives), **RTN)
        (out / "notes.pdf").rename(out.with_name("notes.pdf"))
        quantize(source, out, overwrite=True, **RTN)
        assert out.with_name("notes.pdf").read_text() == "mine"

    def test_a_mount_point(self, source, out, monkeypatch):
        monkeypatch.setattr(os.path, "ismount", lambda path: True)
        with pytest.raises(InputError, match="is a mount point"):
            quantize(source, out, overwrite=True, **RTN)

    def test_a_plain_folder(self, source, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "config.json").write_text("{}")
        with pytest.raises(InputError, match="bivlm did not write"):
            quantize(source, tmp_path / "out", overwrite=True, **RTN)

    def test_the_running_job_of_another_recipe(self, source, tmp_path):
        out, refusals = tmp_path / "out", []

        def other_job(report):
            refusals.append(in_child(lambda: quantize(source, out, overwrite=True, **OTHER)))

        quantize(source, out, events=Told(other_job), **RTN)
        assert {os.waitstatus_to_exitcode(status) for status in refusals} == {REFUSED}
        bivlm.load(out)

    def test_unfinished_work_of_another_recipe(self, source, tmp_path, originals):
        interrupted(source, tmp_path / "out", **OTHER)
        quantize(source, tmp_path / "out", overwrite=True, **RTN)
        assert content(tmp_path / "out") == content(originals[1])


class TestFinished:
    def test_the_same_command_says_so(self, source, originals, tmp_path):
        out = shutil.copytree(originals[1], tmp_path / "out")
        before, told = content(out), Told()
        assert quantize(source, out, events=told, **RTN) == out
        assert "nothing to do" in told.lines[-1]
        assert content(out) == before
        assert not told.units

    def test_a_copy_of_the_source_elsewhere_is_the_same(self, source, originals, tmp_path):
        out = shutil.copytree(originals[1], tmp_path / "out")
        moved, told = source.rename(tmp_path / "moved"), Told()
        os.utime(moved / "model.safetensors", (1, 1))
        quantize(moved, out, events=told, **RTN)
        assert "nothing to do" in told.lines[-1]

    def test_a_damaged_one_is_not_finished(self, source, originals, tmp_path):
        out = shutil.copytree(originals[1], tmp_path / "out")
        shard = sorted(out.glob("*.safetensors"))[-1]
        shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
        with pytest.raises(InputError, match=r"have changed.*--overwrite makes it again"):
            quantize(source, out, **RTN)
        quantize(source, out, overwrite=True, **RTN)
        assert content(out) == content(originals[1])

    @pytest.mark.parametrize("left", [(), ("model-00001-of-00004.json",), ("job.json.writing",)])
    def test_what_the_last_step_left_is_no_unfinished_work(self, left, source, out, originals):
        """The process died while it deleted its own folder: OUT holds a model."""
        (out / JOB_FOLDER).mkdir()
        for name in left:
            (out / JOB_FOLDER / name).write_text("")
        before = content(originals[2])
        with pytest.raises(InputError, match="is not empty"):
            quantize(source, out, **RTN)
        told = Told()
        quantize(source, out, events=told, **OTHER)
        assert "nothing to do" in told.lines[-1]
        assert content(out) == before

    def test_another_recipe(self, source, out):
        with pytest.raises(InputError, match="is not empty"):
            quantize(source, out, **RTN)


class TestDamagedWork:
    """What the disk has damaged in unfinished work is done again, and a line says so."""

    def continued(self, source, out, originals, says=None):
        told = Told()
        quantize(source, out, events=told, **RTN)
        assert content(out) == content(originals[1])
        assert says is None or any(says in line for line in told.lines)

    @pytest.mark.parametrize("damage", [b"", b"{", b"{}", b"[]", b"\xff\xfe"])
    def test_the_job_file(self, damage, source, originals, tmp_path):
        interrupted(source, tmp_path / "out", **RTN)
        (tmp_path / "out" / JOB_FOLDER / "job.json").write_bytes(damage)
        if damage == b"{}":
            with pytest.raises(InputError, match="another job"):
                quantize(source, tmp_path / "out", **RTN)
        else:
            self.continued(source, tmp_path / "out", originals)

    @pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"null", b'{"checksums": 3}'])
    def test_a_record(self, damage, source, originals, tmp_path):
        interrupted(source, tmp_path / "out", **RTN)
        record = sorted((tmp_path / "out" / JOB_FOLDER).glob("model-*.json"))[-1]
        record.write_bytes(damage)
        self.continued(source, tmp_path / "out", originals, "made again")

    def test_a_record_whose_numbers_changed(self, source, originals, tmp_path):
        interrupted(source, tmp_path / "out", **RTN)
        record = sorted((tmp_path / "out" / JOB_FOLDER).glob("model-*.json"))[-1]
        changed = json.loads(record.read_text())
        next(iter(changed["linears"].values()))["settings"]["group_size"] += 1
        record.write_text(json.dumps(changed))
        self.continued(source, tmp_path / "out", originals, "made again")

    @pytest.mark.parametrize("how", ["flip", "zeros", "cut", "gone"])
    def test_a_shard(self, how, source, originals, tmp_path):
        interrupted(source, tmp_path / "out", **RTN)
        shard = sorted((tmp_path / "out").glob("*.safetensors"))[-1]
        whole = shard.read_bytes()
        damaged = {"flip": whole[:-1] + bytes([whole[-1] ^ 1]), "zeros": bytes(len(whole)), "cut": whole[:-9]}
        shard.unlink() if how == "gone" else shard.write_bytes(damaged[how])
        self.continued(source, tmp_path / "out", originals, "made again")

    def test_the_job_folder_alone(self, source, originals, tmp_path):
        (tmp_path / "out" / JOB_FOLDER).mkdir(parents=True)
        (tmp_path / "out" / JOB_FOLDER / "job.json.writing").write_text("{")
        self.continued(source, tmp_path / "out", originals)


class TestTheSystem:
    @pytest.mark.parametrize(
        ("number", "says"),
        [
            (errno.ENOSPC, "the disk is full; make room"),
            (errno.EDQUOT, "quota"),
            (errno.EROFS, "read-only"),
            (errno.EFBIG, "ulimit -f"),
            (errno.EACCES, "permission"),
            (errno.EIO, "reports an error"),
        ],
    )
    def test_an_error_is_one_line_and_the_job_continues(
        self, number, says, source, originals, tmp_path, monkeypatch
    ):
        real, written = output_module.write_shard, []

        def fails_at_the_second(path, tensors):
            if written:
                raise OSError(number, os.strerror(number), str(path))
            written.append(path)
            real(path, tensors)

        with monkeypatch.context() as patched:
            patched.setattr(output_module, "write_shard", fails_at_the_second)
            with pytest.raises(InputError, match=says):
                quantize(source, tmp_path / "out", **RTN)
        quantize(source, tmp_path / "out", **RTN)
        assert content(tmp_path / "out") == content(originals[1])

    def test_the_source_changes_while_it_is_read(self, source, tmp_path):
        def changes(report):
            os.utime(source / "model.safetensors", (1, 1))

        with pytest.raises(InputError, match="changed while they were read"):
            quantize(source, tmp_path / "out", events=Told(changes), **RTN)
        assert not (tmp_path / "out" / "config.json").exists()


def test_two_jobs_race(source, originals, tmp_path):
    """Both start at the same moment: one wins, the other is refused or finds the finished result."""
    for number in range(3):
        out, at = tmp_path / f"out-{number}", time.monotonic() + 0.1

        def job(out=out, at=at):
            time.sleep(max(0.0, at - time.monotonic()))
            quantize(source, out, **RTN)

        children = [start(job) for _ in range(2)]
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        assert codes in ([0, 0], [0, REFUSED])
        assert content(out) == content(originals[1])
        assert not list(tmp_path.glob(".out*"))


def test_an_interrupt_from_the_terminal(source, originals, tmp_path):
    def interrupt(report):
        os.kill(os.getpid(), signal.SIGINT)

    # a shell starts its background jobs with the signal ignored, and Python leaves it so
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            quantize(source, tmp_path / "out", events=Told(interrupt), **RTN)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "out" / JOB_FOLDER).is_dir()
    assert not (tmp_path / "out" / INDEX_NAME).exists()
    quantize(source, tmp_path / "out", **RTN)
    assert content(tmp_path / "out") == content(originals[1])
