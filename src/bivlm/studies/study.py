"""Common code of the runs of a study: how models are asked, the folder of the runs, and the events."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bivlm import __version__
from bivlm.errors import InputError
from bivlm.eval.fidelity import ReferenceAnswers, collect_reference
from bivlm.eval.records import RECORDS_VERSION
from bivlm.eval.run import EvalResult, evaluate
from bivlm.eval.scoring import BY_REFERENCES, METRICS_VERSION
from bivlm.events import SILENT, Events
from bivlm.studies.folder import RunFolder
from bivlm.types import Sample

if TYPE_CHECKING:
    from bivlm.job.unit import UnitReport


@dataclass(frozen=True)
class RunSettings:
    """How a study asks its models, and where it reports. InputError for a batch of no questions.

    batch_size      questions answered at a time
    max_new_tokens  longest answer, in tokens
    command         what the result says that it was made by
    events          hears of progress, and of every finished run in a line
    trust_remote_code  run the code of the models' folders where it is needed
    scorer          how answers are scored (eval/scoring)
    device          where the models answer
    """

    batch_size: int = 32
    max_new_tokens: int = 16
    command: str = ""
    events: Events = SILENT
    trust_remote_code: bool = False
    scorer: str = BY_REFERENCES
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"the batch size is {self.batch_size}; give 1 or more")

    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers of a run, whatever it measures; the CPU goes without saying."""
        place = {} if self.device == "cpu" else {"device": self.device}
        return {
            **place,
            "batch_size": self.batch_size,
            "max_new_tokens": self.max_new_tokens,
            "scorer": self.scorer,
            "metrics": METRICS_VERSION,
            "records": RECORDS_VERSION,
            "bivlm": __version__,
        }


DEFAULT_SETTINGS = RunSettings()


@dataclass(frozen=True)
class Study:
    """A running study; subclasses add their measurements.

    `fingerprint` is the part of the runs' fingerprints that all of them share.
    """

    folder: RunFolder
    samples: Sequence[Sample]
    fingerprint: Mapping[str, Any]
    settings: RunSettings

    def say(self, line: str) -> None:
        self.settings.events.say(line)

    def collect_reference(self, label: str, model: Any, processor: Any) -> ReferenceAnswers:
        """The model's answers and logits, put into the study's folder in place of earlier ones."""
        shutil.rmtree(self.folder.reference, ignore_errors=True)
        return collect_reference(
            model,
            processor,
            self.samples,
            self.folder.reference,
            batch_size=self.settings.batch_size,
            max_new_tokens=self.settings.max_new_tokens,
            events=Labelled(self.settings.events, label),
        )

    def evaluate(self, label: str, model: Any, processor: Any, reference: ReferenceAnswers) -> EvalResult:
        """Ask the model all samples, in the reference's batches; `label` says in the progress which it is."""
        return evaluate(
            model,
            processor,
            self.samples,
            max_new_tokens=self.settings.max_new_tokens,
            reference=reference,
            scorer=self.settings.scorer,
            events=Labelled(self.settings.events, label),
        )


class Labelled(Events):
    """Forwards events, with a label before the name of the work in progress: "trellis-2: questions"."""

    def __init__(self, events: Events, label: str) -> None:
        self.events, self.label = events, label

    def progress(self, what: str, done: int, total: int) -> None:
        self.events.progress(f"{self.label}: {what}", done, total)

    def unit(self, report: UnitReport, done: int, total: int) -> None:
        self.events.unit(report, done, total)

    def say(self, line: str) -> None:
        self.events.say(line)
