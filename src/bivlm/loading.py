"""One call from a folder to a model that answers: checked, complete, in evaluation mode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from bivlm.adapters.lora import attach
from bivlm.adapters.store import read_adapter
from bivlm.checkpoint.complete import check_model_folder
from bivlm.checkpoint.guards import folder_blamed
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.modules import is_packed
from bivlm.checkpoint.shards import read_json
from bivlm.errors import InputError, cut
from bivlm.families import Family, processor_of, use
from bivlm.families.found.record import check_paths
from bivlm.families.pixels import PixelBounds
from bivlm.families.remote_code import is_needed
from bivlm.kernels.base import Activations
from bivlm.packed.module import expand_weights, set_activations
from bivlm.pruning.apply import prune
from bivlm.pruning.settings import Pruning, parse_pruning

FROM_CHECKPOINT = "checkpoint"  # the pruning in config.json, or none


def load(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    expand: bool = False,
    activations: Activations = "float",
    pruning: str | Mapping[str, Any] | Pruning | None = FROM_CHECKPOINT,
    adapter: str | Path | None = None,
    family: Family | None = None,
    max_pixels: int | None = None,
    min_pixels: int | None = None,
    trust_remote_code: bool = False,
) -> tuple[transformers.PreTrainedModel, Any]:
    """The model and the processor of a folder or hub id, packed or in full precision. The processor of a
    language model alone is its tokenizer; that of a vision tower alone is its image processor.

    `dtype` None keeps the dtype of the checkpoint. `expand` decodes the packed weights once and keeps them:
    more memory, the same answers, faster. `activations` "int8" rounds the packed linears' inputs to eight
    bits where that is faster (mostly with few tokens at a time); it is a little less exact. `pruning` says
    which visual tokens the model drops ("attention:layer=2,keep=0.25"); "checkpoint" is the pruning of the
    folder's config.json, None keeps all. `adapter` is the folder of an adapter that `bivlm.adapt` trained for
    this packed model. `family` declares an architecture that bivlm does not know, for this process.
    `max_pixels` and `min_pixels` bound the pixels of every image, in the processor's own way; left out, as
    the folder was packed. `trust_remote_code` runs the code of the folder, where the model or its processor
    needs it; without it such a folder is refused.

    Raises InputError if a folder is missing, incomplete, damaged, or of an architecture that is not
    supported, if this machine lacks the device, if the adapter was trained for another model, and for bounds
    that its processor does not have.
    """
    pixels = PixelBounds(max_pixels, min_pixels)
    wanted = parse_pruning(pruning) if pruning not in (None, FROM_CHECKPOINT) else None
    place = device_named(device)
    folder = resolve_model(model, trust_remote_code)
    if family is not None:
        use(family)
    family = check_model_folder(folder, family, trust_remote_code)
    loaded = _loaded(folder, family, dtype, trust_remote_code)
    loaded = loaded.eval().requires_grad_(False).to(place)
    set_activations(loaded, activations)
    if expand:
        expand_weights(loaded)
    if pruning != FROM_CHECKPOINT:
        prune(loaded, wanted)
    if adapter is not None:
        attach(loaded, read_adapter(adapter, loaded, folder))
    check_paths(loaded, family)
    with folder_blamed(folder):
        bounds = pixels or recorded_pixels(folder)
        return loaded, processor_of(folder, family, bounds, trust_remote_code)


def device_named(device: str | torch.device) -> torch.device:
    """A torch device of this machine. InputError if it is none, or if it cannot be used here."""
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"there is no device {cut(repr(device))}; give cpu, cuda, cuda:1, mps, …") from error
    try:
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = cut(str(error).strip().partition("\n")[0], 200)
        raise InputError(f"the device {place} cannot be used here ({why}); give cpu, or another") from error
    return place


def _loaded(folder: Path, family: Family, dtype: torch.dtype | None, trust_remote_code: bool) -> Any:
    """The model of a folder, as transformers loads it. InputError if tensors are missing."""
    import bivlm.packed.hf  # noqa: F401 - registers the checkpoint's method

    code = trust_remote_code and is_needed(read_json(folder / "config.json"))
    with folder_blamed(folder):
        result: Any = family.auto_model.from_pretrained(
            folder,
            dtype=dtype or "auto",
            output_loading_info=True,
            trust_remote_code=code,
            local_files_only=True,
            use_safetensors=True,
        )
    loaded, info = result
    if info["missing_keys"]:
        raise InputError(
            f"{folder} lacks {sorted(info['missing_keys'])[0]} ({len(info['missing_keys'])} tensors); copy or"
            " quantize it again"
        )
    return loaded


def recorded_pixels(folder: Path) -> PixelBounds:
    """The bounds of pixels with which a model folder was packed. Raises InputError if they make no sense."""
    config = read_json(folder / "config.json")
    record = config["quantization_config"].get("pixels", {}) if is_packed(config) else {}
    return PixelBounds.from_dict(record)
