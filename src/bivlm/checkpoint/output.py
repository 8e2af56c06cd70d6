"""An output folder while it is being written: finished units are stored in it as complete shards, and it
becomes a model only with its last file.

    OUT/.bivlm-job/job.json                 identifies this job; another job may not continue it
    OUT/.bivlm-job/<shard>.json             the contents of a shard; written after the shard is complete
    OUT/model-00003-of-00012.safetensors    one unit each (or a piece of the tensors outside the units)
    OUT/…                                   at the end: the source's other files, the index, the report, and
                                            last of all config.json

A process that dies leaves complete shards and no config.json. The next run with the same arguments continues
after the last complete shard. The written files do not depend on when or how often the job was interrupted.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from bivlm.checkpoint.shards import (
    INDEX_NAME,
    checksum,
    read_entries,
    read_json,
    read_tensors,
    write_atomically,
    write_shard,
)
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.formats import PackedTensor

JOB_FOLDER = ".bivlm-job"
REPORT_NAME = "bivlm_report.json"
FORMAT_VERSION = 1
# size of the shards of tensors outside the units, about: writing one needs no more memory than this
REST_SHARD_BYTES = 1 << 30

Report = Mapping[str, Mapping[str, Any]]


def to_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


class OutputFolder:
    """The output folder of one source, resumable unit by unit.

    `units` are the paths of the units, blocks and tables, in the order in which they are written.
    `fingerprint` has everything that decides the bytes of the result (recipe, source, data…). Work that was
    begun under another fingerprint is refused with InputError. `shared` names parameters that share the
    weight of a packed one: they are not written. Use as a context manager: it locks the folder against a
    second process.
    """

    def __init__(
        self,
        out: Path,
        source: SourceModel,
        units: Sequence[str],
        fingerprint: Mapping[str, Any],
        *,
        shared: Collection[str] = (),
        overwrite: bool = False,
    ) -> None:
        self.out, self.source, self.folder, self.shared = out, source, out / JOB_FOLDER, shared
        self.fingerprint = json.loads(json.dumps({"format_version": FORMAT_VERSION, **fingerprint}))
        self.rest = self._split_rest(units)
        self.names = [f"rest.{number}" for number in range(len(self.rest))] + list(units)
        self._prepare(overwrite)
        self._lock = FileLock(self.folder / "lock", timeout=0)

    def __enter__(self) -> OutputFolder:
        try:
            self._lock.acquire()
        except Timeout as error:
            raise InputError(
                f"another process is writing {self.out} right now; wait for it or choose another folder"
            ) from error
        write_atomically(self.folder / "job.json", to_json(self.fingerprint))
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _prepare(self, overwrite: bool) -> None:
        """Make the folder, keep this job's own unfinished work, refuse everything else."""
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out} is a file; OUT is a folder for the quantized model")
        if self.out.resolve() == self.source.folder.resolve():
            raise InputError(f"OUT is the model's own folder {self.out}; choose another folder")
        if self.out.exists() and any(self.out.iterdir()) and not self._is_own_unfinished_work():
            if not overwrite:
                raise InputError(
                    f"{self.out} is not empty{self._difference()}; choose another folder, or replace it with"
                    " --overwrite"
                )
            if not is_bivlm_folder(self.out):
                raise InputError(
                    f"{self.out} holds files that bivlm did not write; --overwrite replaces only folders that"
                    " bivlm wrote: choose another folder"
                )
            shutil.rmtree(self.out)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _is_own_unfinished_work(self) -> bool:
        path = self.folder / "job.json"
        return path.exists() and read_json(path) == self.fingerprint

    def _difference(self) -> str:
        path = self.folder / "job.json"
        if not path.exists():
            return ""
        other = read_json(path)
        keys = sorted(
            key for key in {*other, *self.fingerprint} if other.get(key) != self.fingerprint.get(key)
        )
        return f": it holds the unfinished work of another job (its {', '.join(keys)} differ)"

    def _split_rest(self, units: Sequence[str]) -> list[list[str]]:
        """The stored tensors outside the units, in shards of about REST_SHARD_BYTES."""
        shards: list[list[str]] = [[]]
        size = 0
        for name, entry in sorted({**self.source.entries, **self.source.extra}.items()):
            if name in self.shared or any(name.startswith(f"{unit}.") for unit in units):
                continue
            if shards[-1] and size + entry.nbytes > REST_SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(name)
            size += entry.nbytes
        return [shard for shard in shards if shard]

    def shard_path(self, name: str) -> Path:
        return self.out / f"model-{self.names.index(name) + 1:05d}-of-{len(self.names):05d}.safetensors"

    def _record_path(self, name: str) -> Path:
        return self.folder / f"{self.shard_path(name).stem}.json"

    def is_done(self, path: str) -> bool:
        """Whether the shard of a unit (by its path) is complete on the disk."""
        record = self._record_path(path)
        return (
            record.exists()
            and self.shard_path(path).exists()
            and read_json(record)["bytes"] == self.shard_path(path).stat().st_size
        )

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
        for name, vector in vectors.items():
            entry = self.source.entries[name]
            tensors[entry.key] = vector.to(entry.dtype).contiguous()
        linears: dict[str, Any] = {}
        for linear, weight in packed.items():
            base = self.source.entries[f"{linear}.weight"].key.removesuffix("weight")
            tensors |= {base + name: tensor for name, tensor in weight.tensors.items()}
            linears[linear] = {
                "key": base,
                "format": weight.format,
                "shape": list(weight.shape),
                "settings": dict(weight.settings),
                "tensors": {
                    name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
                    for name, tensor in weight.tensors.items()
                },
            }
        self._write(path, tensors, linears, report, {name: self.source.entries[name].key for name in vectors})

    def _stored(self, names: Sequence[str]) -> dict[str, Any]:
        places = {**self.source.entries, **self.source.extra}
        return {
            places[name].key: tensor for name, tensor in self.source.read(list(names), copy=False).items()
        }

    def _write(
        self,
        name: str,
        tensors: Mapping[str, Any],
        linears: Mapping[str, Any],
        report: Report,
        vectors: Mapping[str, str] | None = None,
    ) -> None:
        path = self.shard_path(name)
        write_shard(path, tensors)
        record = {
            "bytes": path.stat().st_size,
            "tensor_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
            "checksums": {key: checksum(tensor) for key, tensor in tensors.items()},
            "linears": linears,
            "report": report,
            "vectors": dict(vectors or {}),
        }
        write_atomically(self._record_path(name), to_json(record))

    def read_unit(
        self, path: str
    ) -> tuple[dict[str, PackedTensor], dict[str, Tensor], dict[str, dict[str, Any]]]:
        """The packed weights of a finished unit, its parameters that had new values, and its report."""
        record = read_json(self._record_path(path))
        stored = read_tensors(read_entries([self.shard_path(path)]).values())
        packed = {
            name: PackedTensor(
                linear["format"],
                tuple(linear["shape"]),
                {part: stored[linear["key"] + part] for part in linear["tensors"]},
                linear["settings"],
            )
            for name, linear in record["linears"].items()
        }
        return packed, {name: stored[key] for name, key in record["vectors"].items()}, record["report"]

    def records(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Every shard with its record, in the order of the shards."""
        for name in self.names:
            yield self.shard_path(name), read_json(self._record_path(name))

    def finish(self, files: Mapping[str, str], config: Mapping[str, Any]) -> None:
        """Turn the finished shards into a model folder: the source's other files, `files` by name, the index,
        and config.json last.
        """
        for path in other_files(self.source.folder):
            shutil.copyfile(
                path, self.out / ("README.original.md" if path.name == "README.md" else path.name)
            )
        weight_map: dict[str, str] = {}
        checksums: dict[str, str] = {}
        total = 0
        for path, record in self.records():
            weight_map |= dict.fromkeys(record["checksums"], path.name)
            checksums |= record["checksums"]
            total += record["tensor_bytes"]
        index = {
            "metadata": {
                "total_size": total,
                "bivlm": {"format_version": FORMAT_VERSION, "crc32": checksums},
            },
            "weight_map": weight_map,
        }
        for name, content in {**files, INDEX_NAME: to_json(index), "config.json": to_json(config)}.items():
            write_atomically(self.out / name, content)
        self._lock.release()
        shutil.rmtree(self.folder)


def other_files(folder: Path) -> list[Path]:
    """The files of a model folder that are copied: processor, tokenizer, generation settings, licence; not
    the weights, and not the files that bivlm writes.
    """
    weights = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.suffix not in weights
        and not path.name.endswith(".index.json")
        and path.name != "config.json"
        and path.name[0] != "."
    ]


def is_bivlm_folder(folder: Path) -> bool:
    """Whether bivlm wrote this folder, finished or not."""
    if (folder / JOB_FOLDER / "job.json").exists():
        return True
    config = folder / "config.json"
    return (
        config.exists()
        and (read_json(config).get("quantization_config") or {}).get("quant_method") == "bivlm"
    )


@contextmanager
def disk_full_explained(out: Path) -> Iterator[None]:
    """Say what to do when the disk fills up; the complete shards stay, so the job can continue."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"the disk that holds {out} is full; make room and run the same command again: it continues"
            " after the last finished unit"
        ) from error
