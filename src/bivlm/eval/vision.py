"""The evaluation of a vision-only model: the masks that it draws, or the features of a tower, against the
full-precision model and against true masks.

    IoU     |A ∩ B| / |A ∪ B| of two masks at the size of the image; 1 if both are empty
    score   what the model predicts of its own masks' IoU
    cosine  of the features of a patch, model and reference, mean over the patches of an image

One mask is drawn for each box or each entry of points (`multimask_output=False`). Means and intervals are
over images, each with the mean of its objects.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.shards import read_json
from bivlm.data.images import open_image
from bivlm.data.videos import open_visuals
from bivlm.errors import InputError
from bivlm.eval.answer import inference
from bivlm.eval.statistics.intervals import mean_interval
from bivlm.events import SILENT, Events
from bivlm.families import Family, family_of
from bivlm.families.marked import build_with_sizes, cast_pixels
from bivlm.families.vision_only import VISION_ONLY
from bivlm.loading import load
from bivlm.types import Sample

logger = logging.getLogger(__name__)
EXPANDED: Mapping[str, Any] = {"expand": True}
DARK = 127  # a pixel of a true mask that is brighter belongs to the object


@dataclass(frozen=True)
class Mean:
    """A mean over images, with its 95 % interval."""

    mean: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean | None:
        """None of no values."""
        return cls(sum(values) / len(values), mean_interval(values)) if values else None


@dataclass(frozen=True)
class VisionResult:
    """What an evaluation of a vision-only model found; None where nothing was there to compare with.

    `n` images were seen. `kind` is "masks" or "features". `iou` is that of the model's masks with the
    reference's, `true_iou` with the true masks, `reference_true_iou` that of the reference's own.
    `score_drift` is the mean absolute difference of the predicted IoU. `cosine` is that of the patches'
    features with the reference's, `pooled_cosine` of the pooled features. `non_finite` counts outputs with a
    NaN or an infinity.
    """

    n: int
    objects: int
    kind: Literal["masks", "features"]
    iou: Mean | None
    true_iou: Mean | None
    reference_true_iou: Mean | None
    score_drift: float | None
    cosine: Mean | None
    pooled_cosine: Mean | None
    non_finite: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Seen:
    """What a model makes of one image: `masks` (objects, height, width) bool and `scores` (objects,), or
    `features` (patches, d) and `pooled` (d,), None where the tower pools nothing.
    """

    masks: Tensor | None = None
    scores: Tensor | None = None
    features: Tensor | None = None
    pooled: Tensor | None = None

    @property
    def is_finite(self) -> bool:
        outputs = (self.scores, self.features, self.pooled)
        return all(bool(one.isfinite().all()) for one in outputs if one is not None)


def vision_family(model: str | Path, trust_remote_code: bool = False) -> Family | None:
    """The family of a vision-only model's folder, by its config.json; None for every other model."""
    file = resolve_model(model, trust_remote_code) / "config.json"
    model_type = read_json(file).get("model_type") if file.is_file() else None
    return VISION_ONLY.get(model_type) if isinstance(model_type, str) else None


def measure_vision(
    model: str | Path,
    samples: Sequence[Sample],
    *,
    reference: str | Path | None = None,
    trust_remote_code: bool = False,
    running: Mapping[str, Any] = EXPANDED,
    events: Events = SILENT,
) -> VisionResult:
    """Load a vision-only model, and the full-precision `reference` before it, and measure the one against the
    other and against the samples' true masks. `running` are arguments of `bivlm.load` for the model.

    Raises InputError if there is neither a reference nor a true mask, for a reference of another
    architecture, and for samples that cannot be used.
    """
    if not samples:
        raise InputError("there are no images to evaluate on")
    if reference is None and not any(sample.marks and sample.marks.masks for sample in samples):
        raise InputError(
            "there is nothing to measure against: give the full-precision model (--reference), or the true"
            ' masks ("masks" in the data)'
        )
    others: list[Seen] = []
    if reference is not None:
        loaded, processor = load(reference, device=running.get("device", "cpu"), expand=True)
        family = family_of(loaded.config)
        others = see_all(loaded, processor, samples, "reference", events)
        del loaded
    loaded, processor = load(model, trust_remote_code=trust_remote_code, **running)
    own = family_of(loaded.config)
    if reference is not None and family.model_type != own.model_type:
        raise InputError(
            f"the reference is a {family.model_type} model and the model is a {own.model_type}; give the"
            " full-precision model that it was made of"
        )
    started = time.perf_counter()
    seen = see_all(loaded, processor, samples, "images", events)
    return compared(own, samples, seen, others, time.perf_counter() - started)


def see_all(
    model: Any, processor: Any, samples: Sequence[Sample], stage: str = "images", events: Events = SILENT
) -> list[Seen]:
    """What a loaded vision-only model makes of every sample, one image at a time. `events` receives the
    progress of `stage`. Raises InputError, naming the sample, for what cannot be read or has no marks.
    """
    family, found = family_of(model.config), list[Seen]()
    with inference(model), torch.inference_mode():
        for number, sample in enumerate(samples, 1):
            found.append(_see(model, processor, family, sample))
            events.progress(stage, number, len(samples))
    return found


def _see(model: Any, processor: Any, family: Family, sample: Sample) -> Seen:
    inputs, sizes = build_with_sizes(processor, family, [sample], open_visuals([sample]))
    placed = {name: tensor.to(model.device) for name, tensor in cast_pixels(inputs, model.dtype).items()}
    if not family.draws_masks:
        output = model(**placed)
        pooled = getattr(output, "pooler_output", None)
        features = output.last_hidden_state[0].float().cpu()
        return Seen(features=features, pooled=None if pooled is None else pooled[0].float().cpu())
    output = model(**placed, multimask_output=False)
    masks = processor.post_process_masks(output.pred_masks.float().cpu(), *sizes.values())
    return Seen(masks=masks[0][:, 0].bool(), scores=output.iou_scores[0, :, 0].float().cpu())


def compared(
    family: Family,
    samples: Sequence[Sample],
    seen: Sequence[Seen],
    others: Sequence[Seen] = (),
    seconds: float = 0.0,
) -> VisionResult:
    """The result of what a model and its reference (none, or as many) made of the samples."""
    pairs = list(zip(seen, others, strict=True)) if others else []
    ious = [_mean_iou(one.masks, other.masks) for one, other in pairs]
    drifts = [
        float((one.scores - other.scores).abs().mean())
        for one, other in pairs
        if one.scores is not None and other.scores is not None
    ]
    truths = [true_masks(sample) for sample in samples]
    bad = sum(not one.is_finite for one in (*seen, *others))
    if bad:
        logger.warning("%d outputs hold a NaN or an infinity: the model is broken there", bad)
    return VisionResult(
        n=len(samples),
        objects=sum(0 if one.masks is None else len(one.masks) for one in seen),
        kind="masks" if family.draws_masks else "features",
        iou=Mean.of([iou for iou in ious if iou is not None]),
        true_iou=_with_truth(seen, truths),
        reference_true_iou=_with_truth(others, truths),
        score_drift=sum(drifts) / len(drifts) if drifts else None,
        cosine=_cosines([(one.features, other.features) for one, other in pairs]),
        pooled_cosine=_cosines([(one.pooled, other.pooled) for one, other in pairs]),
        non_finite=bad,
        seconds=seconds,
    )


def true_masks(sample: Sample) -> Tensor | None:
    """The true masks of a sample's objects, (objects, height, width) bool; None if it has none. Raises
    InputError for a mask that is not of the image's size.
    """
    if sample.marks is None or not sample.marks.masks:
        return None
    size = open_image(sample.visuals[0], sample.origin).size  # pyright: ignore[reportArgumentType]
    found = []
    for picture in sample.marks.masks:
        mask = open_image(picture, sample.origin).convert("L")
        if mask.size != size:
            raise InputError(
                f"{sample.origin or 'a sample'}: a mask has {mask.width} x {mask.height} pixels and the image"
                f" {size[0]} x {size[1]}; give masks of the image's size"
            )
        found.append(torch.from_numpy(np.array(mask) > DARK))
    return torch.stack(found)


def mask_iou(one: Tensor, other: Tensor) -> Tensor:
    """The IoU of masks (objects, height, width) bool, object by object: (objects,)."""
    both, either = (one & other).flatten(1).sum(1), (one | other).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both, dtype=torch.float32))


def _mean_iou(one: Tensor | None, other: Tensor | None) -> float | None:
    return None if one is None or other is None else float(mask_iou(one, other).mean())


def _with_truth(seen: Sequence[Seen], truths: Sequence[Tensor | None]) -> Mean | None:
    """The IoU of drawn masks with the true ones, of the samples that have them."""
    found = [_mean_iou(one.masks, truth) for one, truth in zip(seen, truths, strict=False)]
    return Mean.of([iou for iou in found if iou is not None])


def _cosines(pairs: Sequence[tuple[Tensor | None, Tensor | None]]) -> Mean | None:
    """The cosines of features, of an image the mean over its patches."""
    return Mean.of(
        [
            float(cosine_similarity(one, other, dim=-1).mean())
            for one, other in pairs
            if one is not None and other is not None
        ]
    )
