"""What a benchmark adds to a data set: how its questions are put, how answers are scored, which split
counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.eval.scoring import scorer_named
from bivlm.events import SILENT, Events
from bivlm.types import Sample

ONE_WORD = "\nAnswer the question using a single word or phrase."


@dataclass(frozen=True)
class Task:
    """A benchmark.

    title           what people call it
    scorer          the name of its scorer (eval/scoring)
    asks            what every question ends with; the prompts are those of lmms-eval
    instead_of      what `asks` replaces in a question, if it is there
    capital         the question's first letter is made a capital, the others small
    max_new_tokens  of an answer
    split           what is asked where the set has splits
    pictured        questions without an image are left out
    data            which data sets hold it, in words
    folder          reads a folder in the benchmark's own layout, if it is one that no other set has; None if
                    the folder is not of that layout
    """

    title: str
    scorer: str
    data: str
    asks: str = ""
    instead_of: str = ""
    capital: bool = False
    max_new_tokens: int = 16
    split: str = "test"
    pictured: bool = False
    folder: Callable[[Path], list[Sample] | None] | None = None

    def put(self, sample: Sample) -> Sample:
        """The sample with its question as the benchmark puts it."""
        question = sample.question.rstrip()
        if self.instead_of and question.endswith(self.instead_of):
            question = question[: -len(self.instead_of)].rstrip()
        if self.capital:
            question = question.capitalize()
        places = tuple(min(place, len(question)) for place in sample.places)
        return replace(sample, question=question + self.asks, places=places)


def samples_of_task(
    task: Task,
    data: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    data_root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    events: Events = SILENT,
) -> list[Sample]:
    """The questions of a benchmark from `data`, as its rules put them; `split` in place of the task's own.

    Raises InputError as `read_samples` does, and if the scorer can use none of the questions.
    """
    own = task.folder(Path(data)) if task.folder is not None and Path(data).is_dir() else None
    if own is None:
        own = read_samples(
            data,
            split=split or task.split,
            limit=limit,
            seed=seed,
            answers_required=True,
            image_required=task.pictured,
            data_root=data_root,
            columns=columns,
            events=events,
        )
    elif limit is not None:
        own = own[:limit]
    scorer, found = scorer_named(task.scorer), [task.put(sample) for sample in own]
    usable = [sample for sample in found if scorer.usable(sample)]
    if not usable:
        raise InputError(
            f"{data}: none of the {len(found)} questions has an answer that {task.title} could score; it is"
            f" read from {task.data}"
        )
    if len(usable) < len(found):
        events.say(f"{task.title}: {len(found) - len(usable)} questions without a usable answer are left out")
    return usable
