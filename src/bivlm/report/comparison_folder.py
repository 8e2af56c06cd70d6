"""The folder of a comparison while and after it is made. Everything in it can be deleted; what is missing is made again.

OUT/.bivlm-compare/          says whose folder this is; holds the lock and, for packed models that are not measured yet, what packing them took
OUT/reference/               the answers and logits of the full-precision model, for every later run
OUT/models/<run>/            the packed model, while it is measured or when it is to be kept
OUT/runs/<run>.json          one finished run, with the fingerprint of everything that decides its numbers
OUT/comparison.*             the tables and the picture
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bivlm.checkpoint.shards import read_json, write_atomically
from bivlm.data.images import open_image
from bivlm.errors import InputError
from bivlm.eval.fidelity import ReferenceAnswers
from bivlm.types import PARTS, PartName, Sample

MARK = ".bivlm-compare"


@dataclass(frozen=True)
class Effort:
    """What packing a model has taken so far, interrupted runs included, and whether it is whole."""

    seconds: float = 0.0
    peak_bytes: int | None = None
    packed: bool = False


class ComparisonFolder:
    """OUT. Raises InputError when it is a file or holds what no comparison wrote; makes nothing before it is entered. A context manager: it locks."""

    def __init__(self, out: Path) -> None:
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; --out is a folder for the comparison")
        if out.exists() and any(out.iterdir()) and not (out / MARK).is_dir():
            raise InputError(f"{out} holds files that no comparison wrote; give --out a new folder")
        self.out, self.mark, self.reference = out, out / MARK, out / "reference"

    def __enter__(self) -> ComparisonFolder:
        try:
            for folder in (self.mark, self.out / "runs", self.out / "models"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.out} cannot be made ({error.strerror}); give --out a folder that can be written") from error
        self._lock = FileLock(self.mark / "lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise InputError(f"another comparison is being written to {self.out} right now; wait for it or give another folder") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def model(self, run: str) -> Path:
        return self.out / "models" / run

    def finished(self, run: str, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a run that is done, when it was made from the same; None otherwise, and for one that failed."""
        path = self.out / "runs" / f"{run}.json"
        record = read_json(path) if path.exists() else {}
        same = record.get("fingerprint") == plain(fingerprint) and not record["row"]["failure"]
        return record if same else None

    def write_run(self, run: str, record: Mapping[str, Any]) -> None:
        write_atomically(self.out / "runs" / f"{run}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    def effort(self, run: str, fingerprint: Mapping[str, Any]) -> Effort:
        """What an interrupted run spent on packing this very model."""
        path = self.mark / f"{run}.json"
        record = read_json(path) if path.exists() else {}
        return Effort(**record["effort"]) if record.get("fingerprint") == plain(fingerprint) else Effort()

    def write_effort(self, run: str, fingerprint: Mapping[str, Any], effort: Effort) -> None:
        write_atomically(self.mark / f"{run}.json", json.dumps({"fingerprint": fingerprint, "effort": asdict(effort)}))

    def settle(self, run: str, *, keep_model: bool) -> None:
        """What a finished run no longer needs goes; a model of an earlier comparison that was kept stays."""
        effort = self.mark / f"{run}.json"
        if not keep_model and effort.exists():
            shutil.rmtree(self.model(run), ignore_errors=True)
        effort.unlink(missing_ok=True)

    def open_reference(self) -> ReferenceAnswers | None:
        """The full-precision answers, or None when they are not whole."""
        try:
            return ReferenceAnswers.open(self.reference)
        except InputError:
            return None


def plain(content: Any) -> Any:
    """The content as JSON gives it back, so that it can be compared with what was read."""
    return json.loads(json.dumps(content))


def run_name(preset: str, parts: Sequence[PartName]) -> str:
    """The file name of a run: the preset with its settings, and the parts unless they are all."""
    name = re.sub(r"[^\w.,=+-]+", "_", preset)
    return name if tuple(parts) == PARTS else f"{name}@{'+'.join(parts)}"


def digests(samples: Sequence[Sample]) -> list[str]:
    """One text for each sample, alike for the same question, answers and image content."""
    known: dict[Path, str] = {}
    return [hashlib.sha256(repr((sample.question, sample.answers, _image_digest(sample, known))).encode()).hexdigest() for sample in samples]


def joined(texts: Sequence[str]) -> str:
    """One digest of several."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _image_digest(sample: Sample, known: dict[Path, str]) -> str:
    if not isinstance(sample.image, Path):
        image = open_image(sample)
        return f"{image.size} {hashlib.sha256(image.tobytes()).hexdigest()}"
    if sample.image not in known:
        try:
            known[sample.image] = hashlib.sha256(sample.image.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"{sample.origin}: the image {sample.image} cannot be read ({error.strerror})") from error
    return known[sample.image]
