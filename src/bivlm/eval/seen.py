"""Which questions a packed model was calibrated on: its folder remembers their digests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.place import CALIBRATION_NAME
from bivlm.checkpoint.shards import read_json
from bivlm.data.digests import Digests
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.types import Sample


def unseen(model: str | Path, samples: Sequence[Sample], events: Events = SILENT) -> list[Sample]:
    """The samples whose question, about the same images, the model was not calibrated on; `events` hears how
    many others there are. Raises InputError if none is left, for an image that cannot be read, and for a
    damaged file of digests.
    """
    file = resolve_model(model) / CALIBRATION_NAME
    if not file.is_file():
        return list(samples)
    known = read_json(file)
    questions, images = known.get("questions"), known.get("images")
    if not isinstance(questions, list) or not isinstance(images, bool):
        raise InputError(f"{file} is damaged; quantize the model again, or give --keep-seen")
    seen, digests = frozenset(map(str, questions)), Digests()
    left = [sample for sample in samples if digests.of_question(sample, images) not in seen]
    if not left:
        raise InputError(
            f"{model} was calibrated on all {len(samples)} questions; give others, or ask them with"
            " --keep-seen"
        )
    if len(left) < len(samples):
        events.say(
            f"{model} was calibrated on {len(samples) - len(left)} of the {len(samples)} questions, which are"
            " left out (--keep-seen asks them too)"
        )
    return left
