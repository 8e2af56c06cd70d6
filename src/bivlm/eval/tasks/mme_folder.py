"""MME as its authors hand it out: a folder for each subtask, with images and texts of the same name.

    existence/000000006040.jpg                existence/000000006040.txt
    posters/images/tt0048028.jpg              posters/questions_answers_YN/tt0048028.txt

A text holds two lines, each with a question, a tab, and Yes or No.
Source: https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation
"""

from __future__ import annotations

from pathlib import Path

from bivlm.errors import InputError, cut
from bivlm.types import Sample

SUBTASKS = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
)
TEXTS, IMAGES = "questions_answers_YN", "images"
SUFFIXES = (".jpg", ".png", ".jpeg")


def mme_folder(folder: Path) -> list[Sample] | None:
    """The questions of a folder in this layout, subtask by subtask; None if it is of another layout. Raises
    InputError for a text that is not two questions with yes or no, and for an image that is missing.
    """
    present = [folder / name for name in SUBTASKS if (folder / name).is_dir()]
    found = [sample for subtask in present for sample in _of_subtask(subtask)]
    return found or None


def _of_subtask(subtask: Path) -> list[Sample]:
    apart = (subtask / TEXTS).is_dir()
    texts, images = (subtask / TEXTS, subtask / IMAGES) if apart else (subtask, subtask)
    return [sample for text in sorted(texts.glob("*.txt")) for sample in _of_text(text, images, subtask.name)]


def _of_text(text: Path, images: Path, group: str) -> list[Sample]:
    image = next((file for end in SUFFIXES if (file := images / f"{text.stem}{end}").is_file()), None)
    if image is None:
        raise InputError(f"{text}: there is no image {text.stem} with it in {images}")
    try:
        lines = [line for line in text.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{text} cannot be read ({cut(str(error), 100)})") from error
    samples = []
    for number, line in enumerate(lines, 1):
        question, tab, answer = line.rpartition("\t")
        if not tab or answer.strip().lower() not in ("yes", "no"):
            raise InputError(
                f"{text}:{number}: a line is a question, a tab, and Yes or No, and this one is"
                f" {cut(line, 60)!r}"
            )
        samples.append(
            Sample(image, question.strip(), (answer.strip(),), f"{group}/{text.name}:{number}", group=group)
        )
    return samples
