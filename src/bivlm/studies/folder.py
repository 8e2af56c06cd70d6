"""The folder of a long study: every finished run is stored at once. After an interruption the same command
continues, and with a longer list it runs only the new entries.

OUT/<mark>/                  says whose folder this is, and holds the lock
OUT/reference/               the answers and logits of the model that others are compared with
OUT/runs/<run>.json          one finished run, with the fingerprint of everything that decides its numbers
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from filelock import FileLock, Timeout

from bivlm.checkpoint.durable import write_text
from bivlm.checkpoint.shards import read_json
from bivlm.data.digests import Digests
from bivlm.errors import InputError
from bivlm.eval.fidelity import ReferenceAnswers
from bivlm.types import Sample


class RunFolder:
    """The folder OUT. Raises InputError if it is a file or contains files of other origin; creates nothing
    before it is entered. A context manager that locks the folder.
    """

    kind: ClassVar[str] = "study"
    mark_name: ClassVar[str] = ".bivlm-study"
    folders: ClassVar[tuple[str, ...]] = ("runs",)

    def __init__(self, out: Path) -> None:
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; --out is a folder for the {self.kind}")
        if out.exists() and any(out.iterdir()) and not (out / self.mark_name).is_dir():
            raise InputError(f"{out} holds files that no {self.kind} wrote; give --out a new folder")
        self.out, self.mark = out, out / self.mark_name

    def __enter__(self) -> Self:
        try:
            for folder in (self.mark, *(self.out / name for name in self.folders)):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.out} cannot be made ({error.strerror}); give --out a folder that can be written"
            ) from error
        self._lock = FileLock(self.mark / "lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise InputError(
                f"another {self.kind} is being written to {self.out} right now; wait for it or give another"
                " folder"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def finished(self, run: str, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a finished run if its fingerprint is the same; None otherwise."""
        path = self.out / "runs" / f"{run}.json"
        record = self._read(path)
        return record if record.get("fingerprint") == plain(fingerprint) else None

    def write_run(self, run: str, record: Mapping[str, Any]) -> None:
        """Store a finished run. Raises InputError if the folder cannot be written."""
        self._write(
            self.out / "runs" / f"{run}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        )

    def _read(self, path: Path) -> dict[str, Any]:
        """A record; empty if there is none or it is damaged, so that its run is made again."""
        try:
            record = read_json(path) if path.exists() else {}
        except InputError:
            return {}
        return record if isinstance(record, dict) else {}

    def _write(self, path: Path, text: str) -> None:
        try:
            write_text(path, text)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror}); make room or make the folder writable, and run"
                " the same command again: it continues after the last finished run"
            ) from error

    @property
    def reference(self) -> Path:
        return self.out / "reference"

    def open_reference(self) -> ReferenceAnswers | None:
        """The reference's answers, or None if they are not complete."""
        try:
            return ReferenceAnswers.open(self.reference)
        except InputError:
            return None


def plain(content: Any) -> Any:
    """The content after a round trip through JSON, for comparison with content that was read."""
    return json.loads(json.dumps(content))


def digests(samples: Sequence[Sample]) -> list[str]:
    """One text for each sample, alike for the same question, answers and image content."""
    known = Digests()
    return [known.of_sample(sample) for sample in samples]


def joined(texts: Sequence[str]) -> str:
    """One digest of several."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def model_files(folder: Path) -> list[list[Any]]:
    """Name, size and time of a model folder's files: its part of a fingerprint."""
    return [
        [path.name, path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(folder.iterdir())
        if path.is_file()
    ]
