"""The model card of a packed folder: what it is, how large it is, how to use it. All its numbers come from
the run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData, metadata_load

from bivlm.checkpoint.companions import CARD
from bivlm.checkpoint.groups import members
from bivlm.checkpoint.hub import hub_id_of
from bivlm.checkpoint.place import REPORT_NAME
from bivlm.checkpoint.source import SourceModel
from bivlm.job.recipe import Recipe
from bivlm.pruning.settings import parse_pruning

logger = logging.getLogger(__name__)

VISION_USE = '# the inputs of model(...) come from processor(images=..., return_tensors="pt")'
CARRIED = ("license", "license_name", "license_link", "language", "datasets")  # from the source's own card


def model_card(
    source: SourceModel,
    recipe: Recipe,
    report: Mapping[str, Mapping[str, Any]],
    quantization: Mapping[str, Any],
) -> str:
    """The text of README.md. `report` has a row for every packed linear; `quantization` is the
    `quantization_config` of config.json.
    """
    weights = sum(row["weights"] for row in report.values())
    stored = sum(row["stored_bytes"] for row in report.values())
    before = sum(size * len(members(name)) for name, size in quantization["source"]["linears"].items())
    name = quantization["source"]["name"]
    error = sum(row["weight_error"] * row["weights"] for row in report.values()) / weights
    asked, task = 'None, "What is a trellis?"', "text-generation"
    if source.family.reads_images:
        asked, task = '"photo.jpg", "What is in the picture?"', "image-text-to-text"
    if not source.family.answers:
        task = "mask-generation" if source.family.draws_masks else "image-feature-extraction"
    kinds = {module.get("kind", "linear") for module in quantization["modules"].values()}
    rest = quantization["kept"]
    kept = "norms, convolutions" if "embedding" in kinds else "embeddings, norms, language head"
    kept += "".join(f", {kind}" for kind in sorted({row["kind"] for row in rest["weights"]}))
    trusted = ", trust_remote_code=True" if source.trust_remote_code else ""
    pruning = quantization.get("pruning")
    dropped = (
        "" if pruning is None else f"| visual tokens dropped by default | `{parse_pruning(pruning)}` |\n"
    )
    return f"""---
{card_data(source, task).to_yaml().strip()}
---
# {name}, packed by bivlm

{recipe.description}

| | |
|---|---|
| recipe | `{recipe.name}` |
| parts | {", ".join(quantization["parts"])} |
| packed linears{" and embeddings" if "embedding" in kinds else ""} | {len(report)} with {weights:,} weights |
| true bits per weight | {8 * stored / weights:.3f}{_paper_count(report, weights)} |
| bytes of these | {before:,} before, {stored:,} now |
| relative weight error | {error:.4f} |
| everything else | {rest["bytes"]:,} bytes, {rest["share"]:.1%} of the model before |
| calibration samples | {quantization["calibration_samples"]} |
{dropped}
Everything else ({kept}, what the recipe keeps) is stored as it was in `{name}`; `{REPORT_NAME}` has a \
row for everything that is packed.

```python
import bivlm
model, processor = bivlm.load("PATH/TO/THIS/FOLDER"{trusted})
{f"print(bivlm.answer(model, processor, {asked}))" if source.family.answers else VISION_USE}
```
"""


def card_data(source: SourceModel, task: str) -> ModelCardData:
    """What the hub reads at the beginning of the card: the base model where its hub id is known; licence,
    language, data sets and tags of the source's own card.
    """
    own = _own_card(source)
    carried: dict[str, Any] = {name: own[name] for name in CARRIED if name in own}
    base = hub_id_of(source.folder)
    related: dict[str, Any] = {} if base is None else {"base_model": base, "base_model_relation": "quantized"}
    tags = own.get("tags")
    kept = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    return ModelCardData(
        **carried,
        **related,
        library_name="transformers",
        pipeline_tag=task,
        tags=[*dict.fromkeys([*kept, "bivlm", "quantized"])],
    )


def _own_card(source: SourceModel) -> Mapping[str, Any]:
    """The data at the beginning of the source's own card, empty if there are none that can be read."""
    try:
        found = metadata_load(source.folder / CARD)
    except FileNotFoundError:
        return {}
    except Exception as error:  # whatever the YAML reader raises
        logger.warning("%s: its data cannot be read (%s)", source.folder / CARD, type(error).__name__)
        return {}
    return found if isinstance(found, dict) else {}


def _paper_count(report: Mapping[str, Mapping[str, Any]], weights: int) -> str:
    """The method's own count of bits per weight, if it has one for every weight."""
    if any(row["paper_bits"] is None for row in report.values()):
        return ""
    bits = sum(row["paper_bits"] * row["weights"] for row in report.values())
    return f" (the paper's own count: {bits / weights:.3f})"
