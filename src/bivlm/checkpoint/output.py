"""An output folder while it is being written: finished units are stored in it as complete shards, and it
becomes a model only with its last file.

    OUT/.bivlm-job/job.json                 identifies this job; another job may not continue it
    OUT/.bivlm-job/<shard>.json             the contents of a shard; written after the shard is complete
    OUT/.bivlm-job/tuned/                   shards and records that will replace others (staging.py)
    OUT/model-00003-of-00012.safetensors    one unit each (or a piece of the tensors outside the units)
    OUT/…                                   at the end: the index, the source's other files, the report, and
                                            last of all config.json

A process that dies leaves complete shards and no config.json. The next run with the same arguments continues
after the last complete shard: what is damaged or incomplete counts as not done. The written files do not
depend on when or how often the job was interrupted. If OUT has to be replaced, all this happens in a folder
next to it (place.py).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bivlm.checkpoint.companions import UNSEALED, companions
from bivlm.checkpoint.durable import sync_folder, write_text
from bivlm.checkpoint.modules import FORMAT_VERSION, entries_of, packed_of
from bivlm.checkpoint.parts import with_places
from bivlm.checkpoint.place import JOB_FOLDER, Place, PlaceLock, has_more_than_shards, packed_config
from bivlm.checkpoint.rest import split_rest
from bivlm.checkpoint.seal import Seal, module_checksum, text_checksum
from bivlm.checkpoint.shards import (
    INDEX_NAME,
    checksum,
    read_entries,
    read_json,
    read_tensors,
    to_json,
    write_shard,
)
from bivlm.checkpoint.source import SourceModel
from bivlm.checkpoint.staging import Staging
from bivlm.checkpoint.verify import verify_folder
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.formats import PackedTensor

# fields of the source's config.json that do not hold for the packed folder: code to run, the source's weights
NOT_IN_CONFIG = ("auto_map", "transformers_weights")

Report = Mapping[str, Mapping[str, Any]]


class OutputFolder:
    """The output folder of one source, resumable unit by unit.

    `units` are the paths of the units, blocks and tables, in the order in which they are written. `identity`
    has what the user decided about the result (recipe, data…), and `circumstances` what else decides its
    bytes. Work that was begun under others is refused with InputError. `shared` names parameters that share
    the weight of a packed one: they are not written. Use as a context manager: it locks the folder against a
    second process. `is_finished`: OUT holds this job's complete result already.
    """

    def __init__(
        self,
        out: Path,
        source: SourceModel,
        units: Sequence[str],
        identity: Mapping[str, Any],
        *,
        circumstances: Mapping[str, Any] | None = None,
        shared: Collection[str] = (),
        overwrite: bool = False,
        events: Events = SILENT,
    ) -> None:
        self.source, self.shared, self.overwrite, self.events = source, shared, overwrite, events
        self.place = Place(out, source.folder)
        self.identity = digest(identity)
        self.fingerprint = json.loads(
            to_json(
                {
                    "format_version": FORMAT_VERSION,
                    "source": [[path.name, *_state(path)] for path in source.files],
                    **identity,
                    **(circumstances or {}),
                }
            )
        )
        self._job = digest(self.fingerprint)
        self.rest = split_rest(source, units, shared)
        self.names = [f"rest.{number}" for number in range(len(self.rest))] + list(units)
        self.out, self.is_finished = self.place.out, False
        self._lock = PlaceLock(self.place, self.folder)
        self._done: dict[str, bool] = {}

    @property
    def folder(self) -> Path:
        """The job's own folder inside the folder in which it works."""
        return self.out / JOB_FOLDER

    def __enter__(self) -> OutputFolder:
        self._lock.acquire()
        try:
            self._begin()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _begin(self) -> None:
        """Choose where to work: on this job's own unfinished work, in a free folder, or next to a folder that
        will be replaced. Refuse everything else.
        """
        self.place.repair()
        if not self._may_work_in(self.out):
            if self._holds_result():
                self.is_finished = True
                if self.folder.is_dir():  # what a process left that died in its very last step
                    shutil.rmtree(self.folder)
                return
            if not self.overwrite:
                raise InputError(
                    f"{self.out} is not empty{self._difference()}; choose another folder, or replace it with"
                    " --overwrite"
                )
            self.place.check_replaceable()
            self.out = self.place.new
            if not self._may_work_in(self.out):
                self.events.say(
                    f"the unfinished work of another job that was to replace {self.place.out} is deleted"
                )
                shutil.rmtree(self.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "job.json", to_json(self.fingerprint))
        self._staging = Staging(self.folder, self.out)
        self._staging.take()

    def _may_work_in(self, folder: Path) -> bool:
        """Whether a folder is free, or holds the unfinished work of this job and of no other."""
        if not folder.exists() or not any(folder.iterdir()):
            return True
        job = folder / JOB_FOLDER
        if not job.is_dir() or job.is_symlink():
            return False
        begun = _json_or_none(job / "job.json")
        if begun is not None:
            return begun == self.fingerprint
        records = [_json_or_none(path) for path in job.glob("model-*.json")]
        jobs = {record.get("job") for record in records if record is not None}
        # without records the shards are nobody's, and a model is a finished one
        return jobs == {self._job} or (not jobs and not has_more_than_shards(folder))

    def _holds_result(self) -> bool:
        """Whether OUT is the complete and undamaged result of this job."""
        config = packed_config(self.out)
        if config is None:
            return False
        quantization = config["quantization_config"]
        origin = quantization.get("source")
        if quantization.get("job") != self.identity or not isinstance(origin, dict):
            return False
        if origin.get("files") != self.source.digests:
            return False
        try:
            verify_folder(self.out)
        except InputError as error:
            if self.overwrite:
                self.events.say(f"{error}; it is made again")
                return False
            raise InputError(f"{error}; --overwrite makes it again") from error
        return True

    def _difference(self) -> str:
        other = _json_or_none(self.folder / "job.json")
        if other is None:
            return ""
        keys = sorted(
            key for key in {*other, *self.fingerprint} if other.get(key) != self.fingerprint.get(key)
        )
        return f": it holds the unfinished work of another job (its {', '.join(keys)} differ)"

    def shard_path(self, name: str) -> Path:
        return self.out / f"model-{self.names.index(name) + 1:05d}-of-{len(self.names):05d}.safetensors"

    def _record_path(self, name: str) -> Path:
        return self.folder / f"{self.shard_path(name).stem}.json"

    def is_done(self, path: str) -> bool:
        """Whether the shard of a unit (by its path) is complete on the disk: its tensors have the checksums
        of its record. What is not counts as not done, and a line says so.
        """
        if path not in self._done:
            self._done[path] = self._record_path(path).exists() and self._is_undamaged(path)
        return self._done[path]

    def _is_undamaged(self, path: str) -> bool:
        try:
            record = read_json(self._record_path(path))
            own = record.pop("crc32")
            if own != text_checksum(to_json(record)):
                raise InputError("the record is damaged")
            stored = read_tensors(read_entries([self.shard_path(path)]).values(), copy=False)
            if record["job"] != self._job:
                return False
            if {key: checksum(tensor) for key, tensor in stored.items()} == record["checksums"]:
                return True
        except (InputError, KeyError, TypeError):
            pass
        self.events.say(f"{self.shard_path(path).name} or its record is damaged or missing; it is made again")
        return False

    def write_rest(self) -> None:
        """Copy the tensors outside the units unchanged."""
        for number, names in enumerate(self.rest):
            if not self.is_done(f"rest.{number}"):
                self._write(f"rest.{number}", self._stored(names), {}, {})

    def write_unit(
        self,
        path: str,
        packed: Mapping[str, PackedTensor],
        report: Report,
        vectors: Mapping[str, Tensor],
    ) -> None:
        """Write one finished unit: its packed weights, the parameters that have new values (`vectors`), and
        its other tensors unchanged.
        """
        replaced = {f"{linear}.weight" for linear in packed} | set(vectors)
        tensors = self._stored([name for name in self.source.parameter_names(path) if name not in replaced])
        tensors |= self._values(vectors)
        linears = entries_of(
            packed, lambda linear: self.source.key_of(f"{linear}.weight").removesuffix("weight")
        )
        for linear, entry in linears.items():
            own = packed[linear].tensors
            tensors |= {entry["key"] + name: own[name] for name in own if name not in entry.get("shared", {})}
        self._write(path, tensors, linears, report, {name: self.source.key_of(name) for name in vectors})

    @property
    def is_tuned(self) -> bool:
        """Whether `replace_units` has been done. A tuned unit that is damaged cannot be made again alone:
        then no unit counts as done.
        """
        if not self._staging.is_done:
            return False
        if all(self.is_done(name) for name in self.names):
            return True
        self.events.say("a tuned shard is damaged: all shards are made again")
        for name in self.names:
            self._record_path(name).unlink(missing_ok=True)
        self._staging.forget()
        self._done.clear()
        return False

    def replace_units(self, units: Iterable[Any], outside: Mapping[str, Tensor]) -> None:
        """Put other units (MadeUnit) in the place of written ones, all of them or none (staging.py).
        `outside` has new values of parameters that belong to no unit.
        """
        self._staging.begin()
        for unit in units:
            self.write_unit(unit.path, unit.packed, unit.report, unit.vectors)
        for number, names in enumerate(self.rest):
            own = {name: value for name, value in outside.items() if name in names}
            if own:
                self._write(f"rest.{number}", {**self._stored(names), **self._values(own)}, {}, {})
        self._staging.commit()
        self._done.clear()

    def _values(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters with new values, by their key in the shards, in their stored dtype."""
        return {
            self.source.key_of(name): value.to(self.source.entries[name].dtype).contiguous()
            for name, value in vectors.items()
        }

    def _stored(self, names: Sequence[str]) -> dict[str, Any]:
        tensors = self.source.read(names, copy=False)
        return {self.source.key_of(name): tensor for name, tensor in tensors.items()}

    def _write(
        self,
        name: str,
        tensors: Mapping[str, Any],
        linears: Mapping[str, Any],
        report: Report,
        vectors: Mapping[str, str] | None = None,
    ) -> None:
        write_shard(self._staging.place(self.shard_path(name)), tensors)
        record = {
            "job": self._job,
            "tensor_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
            "checksums": {key: checksum(tensor) for key, tensor in tensors.items()},
            "linears": linears,
            "report": report,
            "vectors": dict(vectors or {}),
        }
        record["crc32"] = text_checksum(to_json(record))
        write_text(self._staging.place(self._record_path(name)), to_json(record))
        self._done[name] = True

    def read_unit(
        self, path: str
    ) -> tuple[dict[str, PackedTensor], dict[str, Tensor], dict[str, dict[str, Any]]]:
        """The packed weights of a finished unit, its parameters that had new values, and its report."""
        record = read_json(self._record_path(path))
        stored = read_tensors(read_entries([self.shard_path(path)]).values())
        packed = {name: packed_of(linear, stored) for name, linear in record["linears"].items()}
        return packed, {name: stored[key] for name, key in record["vectors"].items()}, record["report"]

    def records(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Every shard with its record, in the order of the shards."""
        for name in self.names:
            yield self.shard_path(name), read_json(self._record_path(name))

    def finish(self, files: Mapping[str, str], config: Mapping[str, Any]) -> None:
        """Turn the finished shards into a model folder: the index with all checksums, the source's other
        files, `files` by name, and config.json last; then put it in OUT's place if it is not there yet.
        """
        self._check_source_unchanged()
        others = companions(self.source.folder, self.source.trust_remote_code)
        for name, reason in others.left_out.items():
            self.events.say(f"{name} of the source is not copied: {reason}")
        config = {k: value for k, value in config.items() if k not in NOT_IN_CONFIG} | others.code_in(config)
        config = with_places(config, tuple((one.part, one.path) for one in self.source.family.stacks))
        written = {**files, "config.json": to_json(config)}
        sums = {name: text_checksum(content) for name, content in written.items() if name not in UNSEALED}
        write_text(self.out / INDEX_NAME, to_json(self._index(config, others.checksums() | sums)))
        others.copy_to(self.out)
        for name, content in files.items():
            write_text(self.out / name, content)
        sync_folder(self.out)  # everything that config.json needs is on the disk before it appears
        write_text(self.out / "config.json", written["config.json"])
        sync_folder(self.out)
        if self.out != self.place.out:
            self.place.replace()
            self.out = self.place.out
        shutil.rmtree(self.folder)
        sync_folder(self.out)

    def _index(self, config: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
        weight_map: dict[str, str] = {}
        checksums: dict[str, str] = {}
        total = 0
        for path, record in self.records():
            weight_map |= dict.fromkeys(record["checksums"], path.name)
            checksums |= record["checksums"]
            total += record["tensor_bytes"]
        specs = config["quantization_config"]["modules"]
        modules = {name: module_checksum(spec, checksums) for name, spec in specs.items()}
        seal = Seal(checksums, modules, files)
        return {"metadata": {"total_size": total, "bivlm": seal.to_metadata()}, "weight_map": weight_map}

    def _check_source_unchanged(self) -> None:
        now = [[path.name, *_state(path)] for path in self.source.files]
        if now != self.fingerprint["source"]:
            raise InputError(
                f"the weights in {self.source.folder} changed while they were read; run the command again"
                " with --overwrite"
            )


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, 64 hexadecimal digits; the order of its names does not matter."""
    return hashlib.sha256(to_json(content).encode()).hexdigest()


def _state(path: Path) -> tuple[int, int]:
    """What changes when a file is written again: its size and its time."""
    return path.stat().st_size, path.stat().st_mtime_ns


def _json_or_none(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None if it is missing or damaged."""
    try:
        return read_json(path)
    except InputError:
        return None
