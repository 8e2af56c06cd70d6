"""The job that makes an adapter: a packed model and samples in, an adapter's folder out (adapters/store.py).

    samples ─ lessons.py ─► tensors on the disk, with a teacher its logits
    packed model ─ attach ─► model with adapters of zeros ─ train.py ─► the best factors ─► OUT

While it runs, OUT holds `.bivlm-job` alone: what the job is, its lessons, the state of the training. The same
command goes on from there. If no factors are better than none, nothing is written and OUT is removed.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bivlm import __version__
from bivlm.adapters.identity import BaseIdentity, base_identity
from bivlm.adapters.lora import Factors, attach
from bivlm.adapters.ranks import Shapes, adapter_bits
from bivlm.adapters.store import FILES, Record, read_record, verify_adapter, write_adapter
from bivlm.adapting.lessons import LessonFolder, lessons_from_answers, lessons_from_teacher
from bivlm.adapting.recompute import WEIGHT_BYTES, decoded_bytes
from bivlm.adapting.settings import HELD_OUT, AdaptSettings, target_shapes
from bivlm.adapting.train import Trained, Training
from bivlm.checkpoint.complete import check_model_folder
from bivlm.checkpoint.durable import WRITING, sync_folder, write_errors_explained, write_text
from bivlm.checkpoint.guards import folder_blamed, memory_explained
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.place import JOB_FOLDER, Place, PlaceLock
from bivlm.checkpoint.shards import read_json, to_json
from bivlm.checkpoint.training_state import StateFile
from bivlm.checkpoint.weight_files import ADAPTER_CONFIG, weight_files
from bivlm.data.digests import Digests
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.eval.inspection import InspectRow, inspect
from bivlm.eval.run import check_answers
from bivlm.events import SILENT, Events
from bivlm.families import Family, load_processor
from bivlm.families.remote_code import read_config
from bivlm.families.vision_only import check_answers_questions
from bivlm.loading import load, recorded_pixels
from bivlm.packed.module import expand_weights
from bivlm.types import Sample


@dataclass(frozen=True)
class Adapted:
    """What `adapt` made. `folder` is None if no factors were better than none.

    `losses` are those on the held-out samples, nats per answer token: the packed model's own first, then one
    for each judgement on the way. `base_bits` and `adapter_bits` are true bits per packed weight of the whole
    model, which has `weights` of them; the bits of a model with this adapter are their sum. `ranks` are those
    of the linears that have one.
    """

    folder: Path | None
    losses: tuple[float, ...]
    weights: int
    base_bits: float
    adapter_bits: float
    ranks: dict[str, int]

    @property
    def bits(self) -> float:
        """True bits per packed weight, adapter included."""
        return self.base_bits + self.adapter_bits

    def to_dict(self) -> dict[str, Any]:
        fields = {**vars(self), "bits": self.bits, "losses": list(self.losses)}
        return {**fields, "folder": None if self.folder is None else str(self.folder)}


def adapt(
    model: str | Path,
    out: str | Path,
    data: str | Path | Sequence[Sample],
    *,
    teacher: str | Path | None = None,
    settings: AdaptSettings | None = None,
    samples: int = 512,
    data_root: str | Path | None = None,
    trust_remote_code: bool = False,
    split: str | None = "train",
    columns: Mapping[str, str] | None = None,
    events: Events = SILENT,
) -> Adapted:
    """Train a low-rank adapter next to the packed linears of `model`, and write it to the folder `out`.

    `data` are samples, or a data set of which `samples` are drawn; `data_root`, `split` and `columns` are
    those of `read_samples`. Without a `teacher` the model learns their
    answers; with one, the full-precision model, it learns to answer as that does. Every fourth sample is held
    out and judges. `events` receives the progress. The same command continues interrupted work. Raises
    InputError for a model that bivlm did not pack, for samples that cannot be asked, and for an `out` that
    holds anything else. `trust_remote_code` runs the code of both folders where it is needed.
    """
    settings, place = settings or AdaptSettings(), Path(out)
    folder = resolve_model(model, trust_remote_code)
    if place.exists() and not place.is_dir():
        raise InputError(f"{out} is a file; OUT is a folder for the adapter")
    family = check_model_folder(folder, trust_remote_code=trust_remote_code)
    check_answers_questions(family)
    job = _Job(
        folder,
        base_identity(folder),
        family,
        _samples(
            data,
            settings,
            family,
            teacher,
            {"limit": samples, "data_root": data_root, "split": split, "columns": columns, "events": events},
        ),
        None if teacher is None else resolve_model(teacher, trust_remote_code),
        settings,
        events,
        trust_remote_code,
    )
    there = Place(place, folder)
    lock = PlaceLock(there, there.out / JOB_FOLDER)
    with write_errors_explained(there.out), memory_explained(f"training an adapter for {folder}"):
        lock.acquire()
        try:
            return job.run(there.out)
        finally:
            lock.release()


def _samples(
    data: str | Path | Sequence[Sample],
    settings: AdaptSettings,
    family: Family,
    teacher: str | Path | None,
    reading: Mapping[str, Any],
) -> list[Sample]:
    """The samples, checked; `reading` are arguments of `read_samples`. InputError if they are too few, or
    have no answers and need them.
    """
    needed = teacher is None or settings.given_answers
    if settings.given_answers and teacher is None:
        raise InputError("given answers are what is learned without a teacher; leave one of the two out")
    if isinstance(data, str | Path):
        chosen = read_samples(
            data,
            seed=settings.seed,
            answers_required=needed,
            images=family.reads_images,
            **reading,
        )
    else:
        chosen = list(data)
    if needed:
        check_answers(chosen)
    if len(chosen) < HELD_OUT:
        raise InputError(
            f"there are {len(chosen)} samples, of which every {HELD_OUT}th is held out; give at least"
            f" {HELD_OUT}"
        )
    return chosen


@dataclass(frozen=True)
class _Job:
    """A checked request. `base` is the folder of the packed model."""

    base: Path
    identity: BaseIdentity
    family: Family
    samples: Sequence[Sample]
    teacher: Path | None
    settings: AdaptSettings
    events: Events
    trusted: bool = False  # with the folders' code

    def run(self, out: Path) -> Adapted:
        described = self._described()
        name = hashlib.sha256(to_json(described).encode()).hexdigest()[:16]
        if self._is_finished(out, name):
            self.events.say(f"{out} holds this adapter already, complete and undamaged: nothing to do")
            shutil.rmtree(out / JOB_FOLDER, ignore_errors=True)
            return _from_details(out, read_record(out))
        total, work = inspect(self.base, self.trusted).total, out / JOB_FOLDER
        _begin(out, work, described | _circumstances())
        model = self._taught(LessonFolder(work))
        shapes = target_shapes(model, self.settings.linears)
        ranks = self.settings.ranks(shapes, total.weights)
        _attach_zeros(model, shapes, ranks, self.settings.seed)
        trained = Training(
            model,
            LessonFolder(work),
            len(self.samples),
            self.settings,
            StateFile(work / "state.safetensors"),
            self.events,
        ).run()
        result = self._result(out, trained, shapes, total)
        if trained.adapter is not None:
            details = {"training": described, "result": result.to_dict() | {"folder": None}}
            write_adapter(
                out, trained.adapter, Record(self.identity, self.settings.bits, name, {}, "", details)
            )
        shutil.rmtree(work)
        if trained.adapter is None:
            out.rmdir()
            sync_folder(out.parent)
        else:
            sync_folder(out)
        return result

    def _described(self) -> dict[str, Any]:
        """What decides the adapter, for people and for comparison with work that was begun."""
        described = {
            "bivlm": __version__,
            "base": self.identity.to_dict(),
            "samples": _digest(self.samples),
            "sample_count": len(self.samples),
            "settings": self.settings.to_dict(),
        }
        if self.teacher is not None:
            files = [[path.name, path.stat().st_size] for path in weight_files(self.teacher)]
            described["teacher"] = {"name": self.teacher.resolve().name, "files": files}
        return described

    def _is_finished(self, out: Path, name: str) -> bool:
        """Whether OUT holds this job's complete adapter. InputError if it holds anything else than that or
        unfinished work.
        """
        names = {path.name.removesuffix(WRITING) for path in out.iterdir()} if out.exists() else set()
        complete = ADAPTER_CONFIG in names and (out / ADAPTER_CONFIG).is_file()
        if not names <= {JOB_FOLDER, *FILES} or (names and not complete and JOB_FOLDER not in names):
            raise InputError(f"{out} is not empty; choose another folder for the adapter")
        if not complete:
            return False
        record = read_record(out)
        if record is None or record.job != name:
            raise InputError(f"{out} holds another adapter; choose another folder, or remove that one")
        try:
            verify_adapter(out, record)
        except InputError as error:
            if JOB_FOLDER in names:
                return False
            raise InputError(f"{error}; remove the folder to train the adapter again") from error
        return True

    def _taught(self, lessons: LessonFolder) -> Any:
        """Make the lessons, then load the packed model: it and the teacher are not in memory together."""
        if self.teacher is not None:
            with folder_blamed(self.base):
                config = read_config(self.base, read_json(self.base / "config.json"), self.trusted)
            pixels = recorded_pixels(self.base)
            processor = load_processor(self.base, self.family.reads_images, pixels, self.trusted)
            most = None if self.settings.given_answers else self.settings.max_new_tokens
            taught = load(
                self.teacher,
                expand=True,
                pruning=None,
                max_pixels=pixels.most,
                min_pixels=pixels.least,
                trust_remote_code=self.trusted,
            )
            lessons_from_teacher(lessons, taught, (config, processor), self.samples, most, self.events)
            del taught
        model, processor = load(self.base, pruning=None, trust_remote_code=self.trusted)
        if self.teacher is None:
            lessons_from_answers(lessons, model, processor, self.samples, self.events)
        if decoded_bytes(model) <= WEIGHT_BYTES:
            expand_weights(model)
        return model

    def _result(self, out: Path, trained: Trained, shapes: Shapes, total: InspectRow) -> Adapted:
        adapter = trained.adapter or {}
        ranks = {name: factors.rank for name, factors in adapter.items()}
        stored = adapter_bits(shapes, ranks, self.settings.bits) / total.weights
        folder = out if adapter else None
        return Adapted(folder, trained.losses, total.weights, total.bits_per_weight, stored, ranks)


def _attach_zeros(model: Any, shapes: Shapes, ranks: dict[str, int], seed: int) -> None:
    """Attach adapters that add nothing yet: A uniform in ±1/√in as in peft, B zero."""
    random = torch.Generator().manual_seed(seed)
    adapter = {}
    for name, rank in ranks.items():
        out, columns = shapes[name]
        drawn = torch.rand(rank, columns, generator=random, dtype=torch.float32, device="cpu")
        zeros = torch.zeros(out, rank, dtype=torch.float32, device="cpu")
        adapter[name] = Factors((2 * drawn - 1) / math.sqrt(columns), zeros, 1.0)
    attach(model, adapter)


def _begin(out: Path, work: Path, described: dict[str, Any]) -> None:
    """Take up this job's unfinished work in OUT, or begin. InputError for the work of another job."""
    begun = work / "job.json"
    if begun.is_file():
        try:
            other = read_json(begun)
        except InputError:
            other = None
        wanted = _plain(described)
        if other is not None and other != wanted:
            odd = sorted(key for key in {*other, *wanted} if other.get(key) != wanted.get(key))
            raise InputError(
                f"{out} holds the unfinished work of another training (its {', '.join(odd)} differ); choose"
                " another folder, or remove that one"
            )
    work.mkdir(parents=True, exist_ok=True)
    write_text(begun, to_json(described))


def _plain(described: dict[str, Any]) -> dict[str, Any]:
    """The same as it is read back from JSON."""
    return json.loads(to_json(described))


def _circumstances() -> dict[str, Any]:
    """What else decides the bytes of the adapter; unfinished work is continued only if it is equal."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def _digest(samples: Sequence[Sample]) -> str:
    """One text for the content of samples: questions, answers, and images by their bytes."""
    whole, known = hashlib.sha256(), Digests()
    for sample in samples:
        whole.update(known.of_sample(sample).encode())
    return whole.hexdigest()[:16]


def _from_details(out: Path, record: Record | None) -> Adapted:
    """The result that a finished folder describes."""
    result = record.details["result"] if record is not None else {}
    return Adapted(
        out,
        tuple(result["losses"]),
        result["weights"],
        result["base_bits"],
        result["adapter_bits"],
        result["ranks"],
    )
