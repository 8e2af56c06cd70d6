"""The main job in short: a full-precision model folder in, a packed model folder out.

request ─► source ─► plan ─► preflight            prepare: nothing is written yet
─► budget ─► walk, unit by unit, written at once  run
─► report, card, index, config.json last
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bivlm import __version__
from bivlm.calibration.inputs import CalibrationInput, answered, calibration_inputs
from bivlm.checkpoint.companions import ATTRIBUTES, CARD, LARGE_FILES, check_readable, companions
from bivlm.checkpoint.durable import write_errors_explained
from bivlm.checkpoint.groups import grouped, members
from bivlm.checkpoint.guards import memory_explained
from bivlm.checkpoint.hub import hub_id_of, resolve_model
from bivlm.checkpoint.modules import EXPERTS_VERSION, FORMAT_VERSION, KEYS_ARE_NAMES, SPLIT
from bivlm.checkpoint.output import OutputFolder
from bivlm.checkpoint.place import CALIBRATION_NAME, REPORT_NAME
from bivlm.checkpoint.shards import read_json, to_json
from bivlm.checkpoint.source import SourceModel
from bivlm.crew import ALONE, Crew
from bivlm.data.digests import Digests
from bivlm.data.general_set import GENERAL
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.families import Family, family_of, processor_of, use
from bivlm.families.experts import expert_paths
from bivlm.families.found.record import FIELD, found_line, to_record
from bivlm.job.budget.allocation import allocate, linear_budget
from bivlm.job.budget.sensitivity import SensitivityFile
from bivlm.job.card import model_card
from bivlm.job.device import CPU, check_device
from bivlm.job.distilling import distil
from bivlm.job.forecast import forecast, load_of
from bivlm.job.identity import circumstances, data_digest, identity
from bivlm.job.kept import check_experts, kept_weights
from bivlm.job.measurements import Measurements
from bivlm.job.plan import Plan, make_plan
from bivlm.job.preflight import Preflight, check_disk, preflight
from bivlm.job.presets import DEFAULT_PRESET
from bivlm.job.recipe import Recipe
from bivlm.job.request import Request, make_request
from bivlm.job.sameness import check_same
from bivlm.job.samples import NO_DATA, built_in, check_actions, check_images, check_samples
from bivlm.job.sharing import SharedStore
from bivlm.job.vision_only import check_request
from bivlm.job.walk import Walk
from bivlm.job.weighing import check_head, gradients_of, needing_answers
from bivlm.profile import part
from bivlm.pruning.apply import TokenPruning
from bivlm.pruning.settings import Pruning
from bivlm.quantizers import Quantizer
from bivlm.types import MOST_FRAMES, PARTS, Sample

SAMPLES = 32  # calibration questions that are drawn from a data set


@dataclass(frozen=True)
class Prepared:
    """A job that has been checked and planned, and not begun."""

    request: Request
    source: SourceModel
    plan: Plan
    expected: Preflight

    @property
    def recipe(self) -> Recipe:
        return self.request.recipe


def quantize(
    model: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Recipe | Quantizer = DEFAULT_PRESET,
    bits: float | None = None,
    effort: str | None = None,
    embeddings: float | None = None,
    settings: Mapping[str, Any] | None = None,
    parts: Collection[str] = PARTS,
    data: str | Path | Sequence[Sample] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    data_root: str | Path | None = None,
    pruning: str | Mapping[str, Any] | Pruning | None = None,
    family: Family | None = None,
    sensitivities: str | Path | None = None,
    measurements: str | Path | None = None,
    merge_adapter: bool = False,
    allow_kept_experts: bool = False,
    max_pixels: int | None = None,
    min_pixels: int | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    events: Events = SILENT,
    crew: Crew = ALONE,
) -> Path:
    """Quantize `model` (a folder or hub id) into the folder `out`, and return it.

    recipe         a preset's name, a TOML file, a `Recipe`, or one `Quantizer` for everything
    bits           true bits per weight of all packed weights, allocated by their effect on the answers
    effort         "fast", "normal" (corrects for earlier errors) or "high" (tunes each block as well)
    embeddings     bits of the token embedding and the language head; left out: they stay in full precision
    settings       change fields of the recipe's quantizers
    parts          which parts to pack: any of "vision", "projector", "language"
    data           calibration data: a file or data set as on the command line, from which `samples` questions
                   are drawn with `seed`; or a list of `Sample`, all of which are used; left out: the
                   built-in set, if the recipe needs data; "none": nothing
    data_root      the folder in which the images that a data file names must lie; left out: anywhere
    pruning        the packed model's default pruning ("attention:layer=2,keep=0.25")
    family         the declaration of an architecture that bivlm does not know
    sensitivities  a file that keeps the measurements of a budget, for reuse
    measurements   a folder that keeps gradients and predictions of the full-precision model, for other jobs
                   on the same model and data
    merge_adapter  merge the LoRA adapter in the model's folder into the weights; without it such a folder is
                   refused
    allow_kept_experts  pack a model whose blocks are for the most part fused experts, which stay in full
                   precision; without it such a model is refused
    max_pixels     the most pixels of an image, in calibration and later by default; min_pixels the least
    trust_remote_code  run the code of the model's folder, where the model or its processor needs it, and copy
                   it into `out`; without it such a model is refused
    overwrite      replace `out` if bivlm wrote it; the old model stays until the new one is complete
    device         where blocks run and weights are quantized: "cpu", "cuda", "cuda:1"; the bytes depend on it
    events         receives the progress
    crew           the processes that do it together, each calling this with the same arguments; left out:
                   this one alone

    After an interruption the same call continues the job and ends with the same bytes; if `out` holds its
    result already, nothing is done. Raises InputError for every mistake that the user has to correct.
    """
    request = make_request(
        recipe,
        bits=bits,
        effort=effort,
        embeddings=embeddings,
        settings=settings,
        parts=parts,
        pruning=pruning,
        family=family,
        sensitivities=sensitivities,
        measurements=measurements,
        merge_adapter=merge_adapter,
        allow_kept_experts=allow_kept_experts,
        max_pixels=max_pixels,
        min_pixels=min_pixels,
        trust_remote_code=trust_remote_code,
        device=device,
    )
    events = events if crew.is_first else SILENT
    prepared = prepare(model, request)
    drawn = calibration_samples(prepared, data, samples, seed, data_root, events=events)
    return run(prepared, Path(out), drawn, overwrite=overwrite, events=events, crew=crew)


def prepare(model: str | Path, request: Request) -> Prepared:
    """Read the model's headers, match the recipe, predict size and memory. InputError for every mistake
    that the user has to correct.
    """
    if request.family is not None:
        use(request.family)
    trusted = request.trust_remote_code
    source = SourceModel(
        resolve_model(model, trusted), merge_adapter=request.merge_adapter, trust_remote_code=trusted
    )
    check_readable(companions(source.folder, trusted))
    family_of(source.config, request.family)  # refuses a family of another architecture
    check_request(source.family, request)
    plan = make_plan(source, request.recipe, request.parts)
    check_head(source, plan, request.recipe)
    check_device(request.device, source, plan)
    if not request.allow_kept_experts:
        check_experts(source, plan, request.parts)
    budget = None if request.recipe.budget is None else linear_budget(plan, request.recipe.budget)
    if request.pixels:
        processor_of(source.folder, source.family, request.pixels, trusted)  # if it has them
    if request.pruning is not None:
        TokenPruning(source.model, request.pruning)  # refuses a pruning that this model cannot do
    return Prepared(request, source, plan, preflight(source, plan, budget))


def expected_seconds(prepared: Prepared, samples: Sequence[Sample | CalibrationInput]) -> dict[str, float]:
    """How long the job will take on these samples, by part; measured on this machine's CPU in a few seconds.
    Raises InputError for samples that the model cannot be asked.
    """
    source, plan = prepared.source, prepared.plan
    load = load_of(source, plan, samples if prepared.recipe.needs_data else (), prepared.request.pixels)
    return forecast(source, plan, load, budget=prepared.recipe.budget is not None)


def calibration_samples(
    prepared: Prepared,
    data: str | Path | Sequence[Sample] | None,
    samples: int = SAMPLES,
    seed: int = 0,
    data_root: str | Path | None = None,
    *,
    split: str | None = "train",
    columns: Mapping[str, str] | None = None,
    max_frames: int = MOST_FRAMES,
    events: Events = SILENT,
) -> Sequence[Sample]:
    """The calibration samples of a job: none if its recipe needs no data, or if `data` is "none"; the
    built-in ones if it is None. Raises InputError for data that cannot be read.
    """
    if not prepared.recipe.needs_data or data == NO_DATA:
        return ()
    if data is None or data == GENERAL:
        return built_in(prepared.source, samples, seed, prepared.request.pixels, events)
    if isinstance(data, str | Path):
        images = prepared.source.family.reads_images
        return read_samples(
            str(data),
            split=split,
            limit=samples,
            seed=seed,
            images=images,
            data_root=data_root,
            columns=columns,
            max_frames=max_frames,
            events=events,
        )
    return data


def run(
    prepared: Prepared,
    out: Path,
    samples: Sequence[Sample | CalibrationInput] = (),
    *,
    overwrite: bool = False,
    events: Events = SILENT,
    crew: Crew = ALONE,
) -> Path:
    """Carry out a prepared job on calibration samples: questions, or inputs that are tokenized already. The
    ranks of a `crew` do it together; the first speaks and writes.
    """
    source, recipe, device = prepared.source, prepared.recipe, prepared.request.device
    if crew.size > 1 and device != CPU:
        raise InputError(f"the device is {device}; several processes work on the CPU: leave --device out")
    check_same(crew, source, identity(prepared.request))
    if source.family.origin == "found":
        events.say(found_line(source.family))
    inputs = _checked_inputs(prepared, out, samples, events, crew)
    described = identity(prepared.request, inputs)
    folder = None
    if crew.is_first:
        folder = OutputFolder(
            out,
            source,
            [unit.path for unit in prepared.plan.units],
            described,
            circumstances=circumstances(inputs, device),
            shared=prepared.plan.shared,
            overwrite=overwrite,
            events=events,
        )
    with (
        write_errors_explained(out),
        memory_explained(f"quantizing {source.folder}"),
        folder or nullcontext(),
    ):
        if crew.broadcast(folder is not None and folder.is_finished):
            events.say(f"{out} holds the result of this job already, complete and undamaged: nothing to do")
            return out
        if folder is not None:
            folder.write_rest()
        _work(prepared, folder, inputs, events, crew)
        if folder is not None:
            report = {name: row for _, record in folder.records() for name, row in record["report"].items()}
            quantization = quantization_config(prepared, folder, len(inputs))
            config = {**read_json(source.folder / "config.json"), "quantization_config": quantization}
            card = model_card(source, recipe, report, quantization)
            files = {REPORT_NAME: to_json(report), CARD: card, ATTRIBUTES: LARGE_FILES}
            folder.finish({**files, **calibrated_on(source, samples, inputs)}, config)
        crew.agree()  # all end together, and well only if the folder is complete
    return out


def _checked_inputs(
    prepared: Prepared,
    out: Path,
    samples: Sequence[Sample | CalibrationInput],
    events: Events,
    crew: Crew,
) -> list[CalibrationInput]:
    """The samples as inputs of the model, with targets where something looks at them. InputError if they do
    not suffice, or if there is no room for the result.
    """
    source, plan, recipe = prepared.source, prepared.plan, prepared.recipe
    check_samples(recipe, samples)
    if crew.is_first:
        check_disk(out, prepared.expected)
    if plan.pooling is not None:  # a vector is that of the prompt
        samples = [replace(one, answers=()) if isinstance(one, Sample) else one for one in samples]
    inputs = calibration_inputs(source, samples if recipe.needs_data else (), prepared.request.pixels)
    check_images(source, plan, inputs)
    if crew.size > 1:
        crew.compare({"calibration data (their digest)": data_digest(inputs)})
    if needing := needing_answers(plan, inputs, recipe.budget):
        inputs = answered(source, inputs, events, crew, needing)
        check_actions(plan, inputs)
    return inputs


def _work(
    prepared: Prepared,
    folder: OutputFolder | None,
    inputs: Sequence[CalibrationInput],
    events: Events,
    crew: Crew,
) -> None:
    """Measure, allocate, and make all units. Only the first rank has the `folder`."""
    source, plan, recipe, request = prepared.source, prepared.plan, prepared.recipe, prepared.request
    measured, file = None, SensitivityFile(Path())
    if folder is not None:
        place = request.measurements or folder.folder
        measured = Measurements(place, source, data_digest(inputs))
        file = SensitivityFile(folder.folder / "sensitivities.json", request.sensitivities)
    with part("gradients"):
        gradients = gradients_of(source, plan, inputs, measured, events, crew)
    if recipe.budget is not None:
        with part("budget"):
            plan = allocate(source, plan, inputs, recipe.budget, file, events, gradients, crew)
    if plan.distillation and crew.broadcast(folder is not None and folder.is_tuned):
        return
    store = SharedStore(crew, folder, [unit.path for unit in plan.units]) if crew.size > 1 else folder
    assert store is not None
    Walk(source, plan, store, inputs, events, gradients, crew, request.device).run()
    if plan.distillation and folder is not None:
        with part("tuning the model"):
            distil(source, plan, folder, inputs, folder.folder, measured, events)


def calibrated_on(
    source: SourceModel, samples: Sequence[Sample | CalibrationInput], inputs: Sequence[CalibrationInput]
) -> dict[str, str]:
    """The file that remembers the questions that a job calibrated on, by digest; none if it used none."""
    asked = [sample for sample in samples if inputs and isinstance(sample, Sample)]
    if not asked:
        return {}
    digests, images = Digests(), source.family.reads_images
    seen = sorted({digests.of_question(sample, images) for sample in asked})
    return {CALIBRATION_NAME: to_json({"images": images, "questions": seen})}


def quantization_config(prepared: Prepared, store: OutputFolder, calibration_samples: int) -> dict[str, Any]:
    """The `quantization_config` of config.json: how to read every packed module, and where the model came
    from.
    """
    source, request = prepared.source, prepared.request
    kinds = {
        table.name: {"kind": table.kind, **({} if table.head is None else {"head": table.head})}
        for table in prepared.plan.tables
    }
    modules = {
        name: {**spec, **kinds.get(name, {})}
        for _, record in store.records()
        for name, spec in record["linears"].items()
    }
    split = source.has_split_experts
    modules = grouped(modules, expert_paths(source.model))
    pruning = {} if request.pruning is None else {"pruning": request.pruning.to_dict()}
    pixels = {"pixels": request.pixels.to_dict()} if request.pixels else {}
    found = {FIELD: to_record(source.family)} if source.family.origin == "found" else {}
    return {
        "quant_method": "bivlm",
        "format_version": EXPERTS_VERSION if split else FORMAT_VERSION,
        **({"keys": KEYS_ARE_NAMES} if source.keys_are_names else {}),
        **({"experts": SPLIT} if split else {}),
        "bivlm_version": __version__,
        "recipe": json.loads(json.dumps(request.recipe.to_dict())),
        "parts": list(request.parts),
        "calibration_samples": calibration_samples,
        "job": store.identity,
        "source": {
            "files": source.digests,
            "name": hub_id_of(source.folder) or source.folder.resolve().name,
            "file_bytes": source.file_bytes,
            "linears": {name: source.entries[f"{members(name)[0]}.weight"].nbytes for name in modules},
        },
        "kept": {
            "bytes": prepared.expected.kept_bytes,
            "share": round(prepared.expected.kept_share, 4),
            "weights": [kept.to_dict() for kept in kept_weights(source)],
        },
        **pruning,
        **pixels,
        **found,
        "modules": modules,
    }
