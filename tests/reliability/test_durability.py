"""The order of the file-system calls: at whatever call the power fails, what the disk holds then is either no
model, the old model, or the complete new one.

A file's content is on the disk after its fsync, a name after the fsync of its folder. Until then the disk may
have it or not, one independently of the other: the worst combination is what counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from bivlm.checkpoint.durable import WRITING
from bivlm.checkpoint.place import JOB_FOLDER
from bivlm.checkpoint.shards import INDEX_NAME
from bivlm.checkpoint.staging import MARK
from bivlm.job.run import quantize
from bivlm.types import Sample
from reliability.disk import Event, Recorder
from tiny.language import tiny_language_model


@dataclass
class Disk:
    """What is certainly on the disk, and which changes of names are still on their way."""

    files: dict[Path, bool] = field(default_factory=dict)  # certain names, and whether their content is there
    content: set[Path] = field(default_factory=set)  # names, certain or not, whose content is on the disk
    pending: list[Event] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        if event.what == "write":
            self.content.discard(event.path)
        elif event.what == "sync":
            self.content.add(event.path)
        elif event.what == "sync_folder":
            settled = [change for change in self.pending if event.path in folders_of(change)]
            self.pending = [change for change in self.pending if change not in settled]
            for change in settled:
                self.settle(change)
        else:
            if event.what == "rename" and event.target is not None and event.path in self.content:
                self.content.discard(event.path)
                self.content.add(event.target)
            self.pending.append(event)

    def settle(self, change: Event) -> None:
        moved = {path for path in self.files if path == change.path or change.path in path.parents}
        if change.what == "rename" and change.target is not None:
            for path in moved or {change.path}:
                self.files[change.target / path.relative_to(change.path)] = True
        for path in moved:
            if change.what in ("rename", "unlink", "rmdir"):
                del self.files[path]

    def certain(self, path: Path) -> bool:
        return path in self.files and path in self.content


def folders_of(change: Event) -> set[Path]:
    return {change.path.parent} | ({change.target.parent} if change.target is not None else set())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_language_model("llama", tmp_path_factory.mktemp("source") / "model", torch.bfloat16, layers=1)


def needed(folder):
    """What config.json promises: the index and every file with a checksum, the shards, the report."""
    index = json.loads((folder / INDEX_NAME).read_text())
    files = index["metadata"]["bivlm"]["files"]
    return {INDEX_NAME, *files, *index["weight_map"].values()} - {"config.json"}


def test_config_appears_after_all_that_it_needs_is_on_the_disk(source, tmp_path):
    with Recorder(tmp_path).recording() as calls:
        out = quantize(source, tmp_path / "out", recipe="rtn-2")
    disk, appeared = Disk(), False
    for event in calls.events:
        if event.what == "rename" and event.target == out / "config.json":
            appeared = True
            assert event.path in disk.content
            missing = [name for name in needed(out) if not disk.certain(out / name)]
            assert not missing
        if appeared and event.what in ("unlink", "rmdir") and JOB_FOLDER in event.path.parts:
            assert disk.certain(out / "config.json"), "the job's records go before config.json is on the disk"
        disk.apply(event)
    assert appeared
    assert not [event for event in disk.pending if event.path.parent == out]


def test_every_prefix_leaves_no_model_or_a_whole_one(source, tmp_path):
    """The worst disk after each call: a name that may be there, and content that may not."""
    with Recorder(tmp_path).recording() as calls:
        out = quantize(source, tmp_path / "out", recipe="rtn-2")
    wanted = needed(out)
    disk = Disk()
    for number, event in enumerate(calls.events):
        disk.apply(event)
        visible = disk.certain(out / "config.json") or any(
            change.what == "rename" and change.target == out / "config.json" for change in disk.pending
        )
        if visible:
            assert out / "config.json" in disk.content, number
            assert all(disk.certain(out / name) for name in wanted), number


def test_the_old_model_is_deleted_after_the_renames_are_on_the_disk(source, tmp_path):
    out = quantize(source, tmp_path / "out", recipe="rtn-3")
    with Recorder(tmp_path).recording() as calls:
        quantize(source, out, recipe="rtn-2", overwrite=True)
    old, new = tmp_path / ".out.bivlm-old", tmp_path / ".out.bivlm-new"
    order = [
        (event.what, event.path.name) for event in calls.events if event.path in (out, old, new, tmp_path)
    ]
    assert order.index(("rename", "out")) < order.index(("rename", ".out.bivlm-new"))
    renamed = next(i for i, event in enumerate(calls.events) if event.path == new and event.what == "rename")
    synced = next(
        i for i, event in enumerate(calls.events) if i > renamed and event == Event("sync_folder", tmp_path)
    )
    touched = [
        i
        for i, event in enumerate(calls.events)
        if event.what in ("unlink", "rmdir") and (event.path == old or old in event.path.parents)
    ]
    assert touched
    assert min(touched) > synced
    before = [event for event in calls.events[: touched[0]] if event.path.parent == out]
    assert not [event for event in before if event.what in ("unlink", "write")], "the old model was changed"


def test_tuned_shards_replace_others_after_all_of_them_are_on_the_disk(source, tmp_path):
    samples = [Sample(None, f"question {number}", ("yes",)) for number in range(8)]
    with Recorder(tmp_path).recording() as calls:
        quantize(source, tmp_path / "out", recipe="trellis-1", effort="max", data=samples)
    staged = [event for event in calls.events if event.path.parent.name == "tuned"]
    written = {event.target for event in staged if event.what == "rename" and event.path.suffix == WRITING}
    disk, moved = Disk(), 0
    for event in calls.events:
        if event.what == "rename" and event.path in written and event.target.parent.name != "tuned":
            if not moved:
                assert all(disk.certain(path) for path in written), "a shard is moved before all are there"
            moved += 1
        if event.what == "rename" and event.target is not None and event.target.name == MARK:
            before = [path for path in written if path.name != MARK]
            assert event.target.parent.name != "tuned" or all(map(disk.certain, before))
        disk.apply(event)
    assert moved >= 4  # shards and records
