"""The families with an exporter, by model_type. Language models alone are in text.KINDS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bivlm.exporting.gemma3 import gemma3_vision
from bivlm.exporting.idefics3 import idefics3_vision
from bivlm.exporting.internvl import internvl_vision
from bivlm.exporting.llava import llava_vision
from bivlm.exporting.plan import Plan
from bivlm.exporting.qwen_vl import qwen2_5_vision, qwen2_vision, qwen3_vision
from bivlm.exporting.weights import FolderWeights


@dataclass(frozen=True)
class Exporter:
    """How a family becomes two files.

    vision   plans the file of tower and projector, from the weights and the processor
    place    what the chat template writes for an image, as far as llama.cpp writes it itself
    around   what the processor puts on both sides of an image's tokens and llama.cpp does not
    prefix   where the language model's blocks and embedding lie
    """

    vision: Callable[[FolderWeights, Any], Plan]
    place: str
    around: tuple[str, str] = ("", "")
    prefix: str = "model.language_model."


QWEN_PLACE = "<|vision_start|><|image_pad|><|vision_end|>"
EXPORTERS: dict[str, Exporter] = {
    "gemma3": Exporter(gemma3_vision, "<start_of_image>", ("\n\n", "\n\n")),
    "idefics3": Exporter(idefics3_vision, "<image>", prefix="model.text_model."),
    "internvl": Exporter(internvl_vision, "<IMG_CONTEXT>"),
    "llava": Exporter(llava_vision, "<image>"),
    "qwen2_5_vl": Exporter(qwen2_5_vision, QWEN_PLACE),
    "qwen2_vl": Exporter(qwen2_vision, QWEN_PLACE),
    "qwen3_vl": Exporter(qwen3_vision, QWEN_PLACE),
    "smolvlm": Exporter(idefics3_vision, "<image>", prefix="model.text_model."),
}
