"""The teacher: what the full-precision model predicts for the targets of the samples, kept compactly.

Of every prediction the LARGEST log probabilities are kept, and the probability of all other tokens together:
a few hundred numbers instead of a whole vocabulary. The divergence of these from a model's predictions is
that of the two distributions with the rest taken as one event, so it is never larger than the whole
divergence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bivlm.calibration.exact import ExactPass, chunks
from bivlm.calibration.inputs import CalibrationInput
from bivlm.checkpoint.kept import read_kept, write_kept
from bivlm.checkpoint.shards import read_entries, read_tensors
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.events import SILENT, Events

LARGEST = 128  # probabilities that are kept of a prediction
ASKING = "predictions of the full-precision model"  # what the progress is called
TINY = 1e-12


@dataclass(frozen=True)
class Prediction:
    """The predictions for one sample's k targets: `log_probabilities` (k, n) float16 of the `tokens` (k, n)
    int32, the likeliest ones, descending.
    """

    log_probabilities: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Prediction:
        """From the raw logits (k, vocabulary)."""
        found = logits.float().log_softmax(-1).topk(min(LARGEST, logits.shape[-1]), dim=-1)
        return cls(found.values.half(), found.indices.int())

    def divergence(self, logits: Tensor) -> Tensor:
        """KL (k,) of a model's raw logits (k, vocabulary) from these predictions, nats; differentiable."""
        expected = self.log_probabilities.to(logits.device).float()
        given = logits.float()
        found = given.gather(-1, self.tokens.to(logits.device).long()) - given.logsumexp(-1, keepdim=True)
        p = expected.exp()
        kept = (p * (expected - found)).sum(-1)
        rest = (1 - p.sum(-1)).clamp(min=0.0)
        other = (1 - found.exp().sum(-1)).clamp(min=TINY)
        return kept + rest * ((rest + TINY).log() - other.log())


@dataclass(frozen=True)
class Teacher:
    """The full-precision model's predictions for some samples, in their order; in a folder, or in memory."""

    predictions: Sequence[Prediction] | Path
    starts: Sequence[int] = ()

    def prediction(self, number: int) -> Prediction:
        """The predictions for sample `number`."""
        if not isinstance(self.predictions, Path):
            return self.predictions[number]
        index = max(place for place, start in enumerate(self.starts) if start <= number)
        place = number - self.starts[index]
        entries = read_entries([self.predictions / _file_name(index)])
        tensors = read_tensors([entries[f"log_probabilities.{place}"], entries[f"tokens.{place}"]])
        return Prediction(tensors[f"log_probabilities.{place}"], tensors[f"tokens.{place}"])


def ask_teacher(
    source: SourceModel,
    paths: Sequence[str],
    samples: Sequence[CalibrationInput],
    folder: Path | None = None,
    events: Events = SILENT,
) -> Teacher:
    """Run the full-precision model, whose blocks are at `paths`, on samples that all have targets, block by
    block. In `folder` the
    predictions are kept, and taken up again.

    Raises InputError if a prediction is not finite.
    """
    starts, memory, done = [], [], 0
    for index, part in enumerate(chunks(source, len(paths), samples)):
        events.progress(ASKING, done, len(samples))
        starts.append(done)
        kept = None if folder is None else folder / _file_name(index)
        if kept is None:
            memory += _predictions(source, paths, part, done)
        elif read_kept(kept) is None:
            write_kept(kept, _tensors(_predictions(source, paths, part, done)))
        done += len(part)
    events.progress(ASKING, done, len(samples))
    return Teacher(memory) if folder is None else Teacher(folder, tuple(starts))


def _predictions(
    source: SourceModel, paths: Sequence[str], samples: Sequence[CalibrationInput], before: int
) -> list[Prediction]:
    found: dict[int, Prediction] = {}

    def take(number: int, logits: Tensor) -> None:
        if not bool(logits.isfinite().all()):
            raise InputError(
                f"calibration sample {before + number + 1}: the full-precision model's logits are NaN or"
                " infinite; the packed model cannot be tuned to them: leave the sample out"
            )
        found[number] = Prediction.of(logits)

    ExactPass(source, paths, samples).predict(take)
    return [found[number] for number in range(len(samples))]


def _tensors(predictions: Sequence[Prediction]) -> dict[str, Tensor]:
    return {
        f"{name}.{place}": tensor
        for place, prediction in enumerate(predictions)
        for name, tensor in vars(prediction).items()
    }


def _file_name(index: int) -> str:
    return f"teacher-{index:05d}.safetensors"
