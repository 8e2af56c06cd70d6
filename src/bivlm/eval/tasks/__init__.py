"""The benchmarks that `bivlm eval --task` knows. The prompts are those of lmms-eval, the rules those of
eval/scoring; docs/benchmarks.md has the same table.
"""

from __future__ import annotations

from bivlm.errors import no_such
from bivlm.eval.tasks.base import ONE_WORD, Task, samples_of_task
from bivlm.eval.tasks.mme_folder import mme_folder

TASKS = {
    "mme": Task(
        "MME",
        "mme",
        "the folder that its authors hand out, or lmms-lab/MME",
        asks=ONE_WORD,
        instead_of=" Please answer yes or no.",
        folder=mme_folder,
    ),
    "mmmu": Task("MMMU", "mmmu", "MMMU/MMMU or lmms-lab/MMMU", max_new_tokens=128, split="validation"),
    "scienceqa": Task(
        "ScienceQA-IMG", "scienceqa", "derek-thomas/ScienceQA or lmms-lab/ScienceQA", pictured=True
    ),
    "vizwiz": Task(
        "VizWiz",
        "vqa_accuracy",
        "its authors' val.json with the images, or lmms-lab/VizWiz-VQA",
        asks="\nWhen the provided information is insufficient, respond with 'Unanswerable'." + ONE_WORD,
        capital=True,
        split="val",
    ),
    "pope": Task("POPE", "pope", "lmms-lab/POPE", asks=ONE_WORD, max_new_tokens=128),
    "mmstar": Task(
        "MMStar",
        "mmstar",
        "Lin-Chen/MMStar",
        asks="\nAnswer with the option's letter from the given choices directly",
        split="val",
    ),
    "textvqa": Task(
        "TextVQA", "vqa_accuracy", "lmms-lab/textvqa", asks=ONE_WORD, capital=True, split="validation"
    ),
    "vqav2": Task("VQAv2", "vqa_accuracy", "lmms-lab/VQAv2", asks=ONE_WORD, split="validation"),
    "docvqa": Task("DocVQA", "anls", "lmms-lab/DocVQA", asks=ONE_WORD, max_new_tokens=32, split="validation"),
    "chartqa": Task(
        "ChartQA", "relaxed_accuracy", "lmms-lab/ChartQA", asks="\nAnswer the question with a single word."
    ),
    "ocrbench": Task("OCRBench", "ocrbench", "echo840/OCRBench", max_new_tokens=128),
}


def task_named(name: str) -> Task:
    """The benchmark of that name. Raises InputError, with the nearest names, if there is none."""
    if name not in TASKS:
        raise no_such("task", name, TASKS)
    return TASKS[name]


__all__ = ["TASKS", "Task", "samples_of_task", "task_named"]
