"""`bivlm export gguf`: a model folder, packed or not, becomes files that llama.cpp loads.

    model.gguf     the language model, its tokenizer, its chat template
    mmproj.gguf    the vision tower and the projector

Both are written under other names and get theirs when both are complete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

from bivlm.checkpoint.durable import publish, sync_folder, writing_name
from bivlm.checkpoint.hub import resolve_model
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.exporting.plan import Plan, check_all_used
from bivlm.exporting.stored import check_choice
from bivlm.exporting.table import EXPORTERS, Exporter
from bivlm.exporting.template import from_prompt, with_markers, without_marks
from bivlm.exporting.text import KINDS, language_plan
from bivlm.exporting.tokenizer import tokenizer_metadata
from bivlm.exporting.weights import FolderWeights
from bivlm.exporting.writer import with_types, write
from bivlm.families import Family, load_processor

MODEL, MMPROJ = "model.gguf", "mmproj.gguf"


@dataclass(frozen=True)
class Exported:
    """What was written: the bytes of each file by its name, and how many tensors of each type they hold."""

    folder: Path
    files: Mapping[str, int]
    types: Mapping[str, int]


def export_gguf(
    model: str | Path,
    out: str | Path,
    *,
    kind: str = "F16",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    events: Events = SILENT,
) -> Exported:
    """Write a model folder or hub id as GGUF files into the folder `out`.

    `kind` is the type of the matrices: F16, BF16, F32 or Q8_0; packed weights whose codes Q1_0 or TQ2_0 holds
    exactly are stored so. Raises InputError for a model that `bivlm.load` refuses, for an architecture, a
    tokenizer or a setting that llama.cpp does not have, for a type that would quantize packed weights once
    more, and for files that exist, unless `overwrite` says so. Memory holds the largest weight.
    """
    _require_gguf()
    folder, target = resolve_model(model, trust_remote_code), Path(out)
    _check_place(target, folder, overwrite)
    weights = FolderWeights(folder, trust_remote_code)
    kind = kind.upper()
    check_choice(kind, weights.is_packed)
    plans = _plans(weights, trust_remote_code)
    for plan in plans.values():
        if plan.remark:
            events.say(plan.remark)
    return _write_all(plans, weights, target, kind, events)


def _require_gguf() -> None:
    """InputError, saying what to install, if the package gguf is missing."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise InputError("GGUF files need the package gguf: pip install 'bivlm[export]'") from error


def _check_place(target: Path, folder: Path, overwrite: bool) -> None:
    """InputError for an OUT that cannot take the files."""
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; OUT is a folder for {MODEL} and {MMPROJ}")
    if target.resolve() == folder.resolve():
        raise InputError(f"OUT is the model's own folder {target}; choose another folder")
    there = [name for name in (MODEL, MMPROJ) if (target / name).exists()]
    if there and not overwrite:
        raise InputError(f"{target / there[0]} exists; choose another folder, or give --overwrite")


def _plans(weights: FolderWeights, trust_remote_code: bool) -> dict[str, Plan]:
    """The files by name, with everything checked that needs no weights."""
    family, folder = weights.family, weights.folder
    exporter = EXPORTERS.get(family.model_type)
    if family.reads_images and exporter is None:
        known = ", ".join(EXPORTERS)
        raise InputError(
            f"{folder}: a {family.model_type} has no exporter to GGUF; those that have one: {known}, and"
            f" language models alone: {', '.join(KINDS)}"
        )
    processor = load_processor(folder, family.reads_images, trust_remote_code=trust_remote_code)
    tokenizer = processor.tokenizer if family.reads_images else processor
    text = language_plan(weights) if exporter is None else language_plan(weights, exporter.prefix)
    general = {"general.type": "model", "general.name": folder.resolve().name}
    ends = getattr(weights.model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    vocabulary = weights.config.get_text_config().vocab_size
    words = tokenizer_metadata(folder, tokenizer, vocabulary, ends)
    template = _template(processor, family, exporter)
    if template is not None:
        words["tokenizer.chat_template"] = template
    plans = {MODEL: replace(text, metadata={**general, **text.metadata, **words})}
    if exporter is not None:
        plans[MMPROJ] = exporter.vision(weights, processor)
    check_all_used(weights, list(plans.values()))
    return plans


def _template(processor: Any, family: Family, exporter: Exporter | None) -> str | None:
    """The chat template of the file; a language model may have none."""
    template = processor.chat_template
    template = template.get("default") if isinstance(template, Mapping) else template
    template = None if template is None else without_marks(template)
    if exporter is None:
        return template
    if template is None:
        if family.prompt is None:
            raise InputError(
                f"{type(processor).__name__} has no chat template, and bivlm knows no prompt for this model,"
                " so it cannot be exported"
            )
        image = family.image_place.replace("{image}", processor.image_token)
        template = from_prompt(family.prompt, image)
    return with_markers(template, exporter.place, exporter.around)


def _write_all(
    plans: Mapping[str, Plan], weights: FolderWeights, target: Path, kind: str, events: Events
) -> Exported:
    """Write the files, and give them their names when all are complete; otherwise none is left."""
    typed = {name: with_types(plan, weights, kind) for name, plan in plans.items()}
    total, done = sum(map(len, typed.values())), 0
    made = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    needed, free = sum(one.nbytes for tensors in typed.values() for one in tensors), disk_usage(target).free

    def written(name: str) -> None:
        nonlocal done
        done += 1
        events.progress("tensors", done, total)

    try:
        if needed > free:
            raise InputError(
                f"the files need {needed / 1e9:.2f} GB, and {target} has room for {free / 1e9:.2f} GB; make"
                " room or choose another place"
            )
        for name, plan in plans.items():
            write(writing_name(target / name), plan, typed[name], weights, written)
        for name in plans:
            publish(writing_name(target / name), target / name)
        if MMPROJ not in plans:
            (target / MMPROJ).unlink(missing_ok=True)  # of the model that was there before
        sync_folder(target)
    except BaseException:
        for name in plans:
            writing_name(target / name).unlink(missing_ok=True)
        if made and not any(target.iterdir()):
            target.rmdir()
        raise
    types: Counter[str] = Counter(one.kind for tensors in typed.values() for one in tensors)
    return Exported(target, {name: (target / name).stat().st_size for name in plans}, dict(types))
