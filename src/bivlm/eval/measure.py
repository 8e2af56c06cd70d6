"""One model on one set of questions, with or without a reference: load, answer, compare. The models are in
memory one after the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bivlm.checkpoint.hub import resolve_model
from bivlm.eval.fidelity import ReferenceAnswers, collect_reference
from bivlm.eval.run import EvalResult, check_answers, evaluate
from bivlm.eval.scoring import BY_REFERENCES
from bivlm.events import SILENT, Events
from bivlm.families.pixels import PixelBounds
from bivlm.loading import FROM_CHECKPOINT, load, recorded_pixels
from bivlm.pruning.settings import Pruning
from bivlm.types import Sample

EXPANDED: Mapping[str, Any] = {"expand": True}


def measure(
    model: str | Path,
    samples: Sequence[Sample],
    *,
    reference: str | Path | None = None,
    batch_size: int = 32,
    max_new_tokens: int = 16,
    pruning: str | Pruning | None = FROM_CHECKPOINT,
    adapter: str | Path | None = None,
    max_pixels: int | None = None,
    min_pixels: int | None = None,
    trust_remote_code: bool = False,
    running: Mapping[str, Any] = EXPANDED,
    scorer: str = BY_REFERENCES,
    events: Events = SILENT,
) -> EvalResult:
    """Accuracy of a model folder, and with `reference` its KL divergence and top-1 agreement on the
    reference's answers.

    The reference drops no visual tokens; the model is pruned as `pruning` says and has the `adapter`, as in
    `bivlm.load`; both read images within the same bounds of pixels. `trust_remote_code` runs the code of both
    folders where it is needed. `running` are arguments of `bivlm.load` for the model: device, dtype, expand,
    activations; the reference runs on the same device in its own dtype. `scorer` names how answers are scored
    (eval/scoring). `events` receives the progress of the "reference answers" and then of the "questions".
    Raises InputError, before anything is loaded, for samples without an answer that the scorer can use.
    """
    check_answers(samples, scorer)
    with tempfile.TemporaryDirectory(prefix="bivlm-") as folder:
        answers: ReferenceAnswers | None = None
        if reference is not None:
            pixels = PixelBounds(max_pixels, min_pixels) or recorded_pixels(
                resolve_model(model, trust_remote_code)
            )
            bounds: dict[str, Any] = {"max_pixels": pixels.most, "min_pixels": pixels.least}
            loaded, processor = load(
                reference,
                device=running.get("device", "cpu"),
                expand=True,
                pruning=None,
                trust_remote_code=trust_remote_code,
                **bounds,
            )
            answers = collect_reference(
                loaded,
                processor,
                samples,
                folder=Path(folder),
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                events=events,
            )
            del loaded
        loaded, processor = load(
            model,
            **running,
            pruning=pruning,
            adapter=adapter,
            max_pixels=max_pixels,
            min_pixels=min_pixels,
            trust_remote_code=trust_remote_code,
        )
        return evaluate(
            loaded,
            processor,
            samples,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            reference=answers,
            scorer=scorer,
            events=events,
        )
