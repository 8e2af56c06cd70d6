"""bivlm quantize: a full-precision model folder in, a packed one out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bivlm.cli.crewed import crewed
from bivlm.cli.shared import (
    ALL_PARTS,
    DATA_HELP,
    MAIN,
    MORE,
    PRUNE_HELP,
    ColumnsOption,
    DataRootOption,
    JsonOption,
    MaxFramesOption,
    MaxPixelsOption,
    MinPixelsOption,
    ModelArgument,
    PartsOption,
    SeedOption,
    SplitOption,
    TrustOption,
    columns_of,
    command,
    note,
    out_console,
    print_json,
    quiet_libraries,
    split_of,
    words,
)
from bivlm.crew import Crew
from bivlm.events import SILENT
from bivlm.job.presets import DEFAULT_PRESET, preset_names
from bivlm.types import MOST_FRAMES

if TYPE_CHECKING:
    from bivlm.job.run import Prepared
    from bivlm.types import Sample

OutArgument = Annotated[
    Path, typer.Argument(metavar="OUT", help="folder for the packed model", show_default=False)
]


def _presets_that_begin(incomplete: str) -> list[str]:
    """For the shell's completion."""
    return [name for name in preset_names() if name.startswith(incomplete)]


PresetOption = Annotated[
    str,
    typer.Option(
        help=(
            "a preset's name (`bivlm presets` lists them), or a recipe file that ends in .toml; settings may"
            " follow: bivlm:bands=5"
        ),
        autocompletion=_presets_that_begin,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="change a setting of the preset's quantizers; may be repeated",
        rich_help_panel=MORE,
    ),
]
BitsOption = Annotated[
    float | None,
    typer.Option(
        help=(
            "true bits per weight of everything packed together, dealt out by what it does to the answers;"
            " for the trellis presets"
        )
    ),
]
EmbeddingsOption = Annotated[
    float | None,
    typer.Option(
        help=(
            "pack the token embedding and the language head too, in so many bits: 0.5 … 4, or 5, 6, 7, 8;"
            " else as the preset says"
        ),
        rich_help_panel=MORE,
    ),
]
EffortOption = Annotated[
    str | None,
    typer.Option(
        help=(
            "fast, normal (corrects for errors of the blocks before), high (tunes each block as well) or max"
            " (tunes the whole packed model on the full-precision one); left out: as the preset says"
        ),
        rich_help_panel=MORE,
    ),
]
CalibrationOption = Annotated[
    str | None,
    typer.Option(
        help=f"calibration {DATA_HELP}; left out: the built-in set; none: no data", show_default=False
    ),
]
SamplesOption = Annotated[
    int,
    typer.Option(min=1, help="how many calibration questions to draw", rich_help_panel=MORE),
]
DefaultPruningOption = Annotated[
    str | None,
    typer.Option(
        "--prune",
        help=f"what the packed model drops by default: {PRUNE_HELP}",
        show_default=False,
        rich_help_panel=MORE,
    ),
]
SensitivitiesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=(
            "keep what a budget measures in this file, and take it from there where it has been measured; for"
            " another budget on the same model"
        ),
        show_default=False,
        rich_help_panel=MORE,
    ),
]
AdapterOption = Annotated[
    bool,
    typer.Option(
        "--merge-adapter",
        help="merge the LoRA adapter in MODEL's folder into the weights; without it such a folder is refused",
        rich_help_panel=MORE,
    ),
]
KeptExpertsOption = Annotated[
    bool,
    typer.Option(
        "--allow-kept-experts",
        help=(
            "pack a model whose blocks are for the most part fused experts, which stay in full precision;"
            " without it such a model is refused"
        ),
        rich_help_panel=MORE,
    ),
]
MeasurementsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help=(
            "keep gradients and predictions of the full-precision model here, for other jobs on the same"
            " model and data"
        ),
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="replace OUT if bivlm wrote it; the old model stays until the new one is complete"
    ),
]
PackingDeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="where blocks run and weights are quantized: cpu, cuda, cuda:1",
        rich_help_panel=MORE,
    ),
]
ProfileOption = Annotated[
    bool, typer.Option("--profile", help="say at the end where the time went", rich_help_panel=MORE)
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="read the data, print the plan, and stop")]


@command(
    "quantize",
    MAIN,
    "bivlm quantize path/to/model out",
    "bivlm quantize path/to/model out --bits 2 --data vqa.jsonl",
)
def quantize(
    model: ModelArgument,
    out: OutArgument,
    preset: PresetOption = DEFAULT_PRESET,
    parts: PartsOption = ALL_PARTS,
    set_: SetOption = None,
    bits: BitsOption = None,
    embeddings: EmbeddingsOption = None,
    effort: EffortOption = None,
    data: CalibrationOption = None,
    samples: SamplesOption = 32,
    seed: SeedOption = 0,
    split: SplitOption = None,
    columns: ColumnsOption = None,
    data_root: DataRootOption = None,
    max_frames: MaxFramesOption = MOST_FRAMES,
    prune: DefaultPruningOption = None,
    max_pixels: MaxPixelsOption = None,
    min_pixels: MinPixelsOption = None,
    sensitivities: SensitivitiesOption = None,
    measurements: MeasurementsOption = None,
    merge_adapter: AdapterOption = False,
    allow_kept_experts: KeptExpertsOption = False,
    trust_remote_code: TrustOption = False,
    device: PackingDeviceOption = "cpu",
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    profile: ProfileOption = False,
    json_: JsonOption = False,
) -> None:
    """Pack a full-precision model into a folder of two bits or less per weight.

    The plan is printed first. Every finished block is on the disk at once: interrupted, the same command
    continues where it was. Started by torchrun, several processes do it together, and the result is the same.
    """
    quiet_libraries()
    from bivlm.cli.progress import Shown
    from bivlm.job.request import make_request
    from bivlm.job.run import calibration_samples, prepare
    from bivlm.profile import profiled
    from bivlm.settings import parse_settings

    with crewed() as crew:
        request = make_request(
            preset,
            bits=bits,
            effort=effort,
            embeddings=embeddings,
            settings=parse_settings(set_ or []),
            parts=words(parts),
            pruning=prune,
            sensitivities=sensitivities,
            measurements=measurements,
            merge_adapter=merge_adapter,
            allow_kept_experts=allow_kept_experts,
            max_pixels=max_pixels,
            min_pixels=min_pixels,
            trust_remote_code=trust_remote_code,
            device=device,
        )
        prepared = prepare(model, request)
        drawn = calibration_samples(
            prepared,
            data,
            samples,
            seed,
            data_root,
            split=split_of(split, "train"),
            columns=columns_of(columns),
            max_frames=max_frames,
            events=Shown() if crew.is_first else SILENT,
        )
        plan = _show_plan(prepared, drawn, crew, json_) if crew.is_first else {}
        if dry_run:
            if json_ and crew.is_first:
                print_json(plan)
            return
        with profiled() as seconds:
            _pack(prepared, out, drawn, overwrite, crew)
        if crew.is_first:
            _show_packed(out, json_, trust_remote_code, seconds if profile else {})


def _show_plan(prepared: Prepared, samples: Sequence[Sample], crew: Crew, json_: bool) -> dict[str, Any]:
    """Print the plan, with the time that it will take on the CPU, and a warning if the recipe takes more bits
    than it is meant to; returns all of it.
    """
    from bivlm.cli.tables import preflight_table
    from bivlm.job.preflight import purpose_warning
    from bivlm.job.run import expected_seconds

    on_cpu = prepared.request.device.type == "cpu"
    seconds = expected_seconds(prepared, samples) if on_cpu and crew.size == 1 else {}
    if not json_:
        out_console.print(preflight_table(prepared.expected, prepared.recipe, seconds))
    warning = purpose_warning(prepared.expected, prepared.recipe)
    if warning:
        note.print(f"note: {warning}", highlight=False, soft_wrap=True)
    return {**asdict(prepared.expected), "seconds": seconds, "warning": warning}


def _pack(prepared: Prepared, out: Path, samples: Sequence[Sample], overwrite: bool, crew: Crew) -> None:
    """Carry out the job, and show its progress if this is the first rank."""
    from bivlm.cli.progress import Shown
    from bivlm.job.run import run

    with Shown(lines=True) if crew.is_first else nullcontext(SILENT) as events:
        run(prepared, out, samples, overwrite=overwrite, events=events, crew=crew)


def _show_packed(out: Path, json_: bool, trust_remote_code: bool, seconds: Mapping[str, float]) -> None:
    """Print what was packed, and where the time went if it was asked for."""
    from bivlm.cli.tables import inspection_table, profile_table
    from bivlm.eval.inspection import inspect
    from bivlm.eval.vision import vision_family

    inspection, seeing = inspect(out, trust_remote_code), vision_family(out)
    if json_:
        print_json({**inspection.to_dict(), "seconds": dict(seconds)} if seconds else inspection)
        return
    out_console.print(inspection_table(inspection, layers=False))
    if seconds:
        out_console.print(profile_table(seconds))
    use = f"ask it with: bivlm ask {out} --image IMAGE QUESTION"
    if seeing is not None:
        use = f"measure it with: bivlm eval {out} --data DATA --reference MODEL"
    out_console.print(
        f"Packed model in [bold]{out}[/bold]; {use}; share it"
        f" with: bivlm push {out} OWNER/NAME, or: hf upload OWNER/NAME {out}"
    )
