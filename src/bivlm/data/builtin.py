"""easy-VQA: 5 000 images of 64 x 64 pixels, 48 248 questions, 13 answers; shipped inside the PyPI package
`easy-vqa`.

Each image shows one shape (circle, rectangle, triangle) in one of eight colours; the questions ask for shape,
colour and presence ("is no red shape present?"). Answering by the question alone reaches 67 %, so the rest
has to come from the image. Source: https://github.com/vzhou842/easy-VQA (MIT licence).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bivlm.types import Sample

Split = Literal["train", "test"]


def easy_vqa(split: Split) -> list[Sample]:
    """The easy-VQA questions of one split, in the order of the package: 38 575 for "train", 9 673 for "test".

    Raises ModuleNotFoundError, with the command that helps, when the package `easy-vqa` is not installed.
    """
    try:
        import easy_vqa as package
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the data set 'easy-vqa' comes with the package of that name: pip install 'bivlm[demo]'"
        ) from error
    if split == "train":
        questions, paths = package.get_train_questions(), package.get_train_image_paths()
    else:
        questions, paths = package.get_test_questions(), package.get_test_image_paths()
    return [
        Sample(
            image=Path(paths[image_id]),
            question=question,
            answers=(answer,),
            origin=f"easy-vqa/{split}:{index}",
        )
        for index, (question, answer, image_id) in enumerate(zip(*questions, strict=True))
    ]
