"""Lessons: what an answer looks like in tokens, and files that count only while they are whole."""

from __future__ import annotations

import pytest
import torch

from bivlm.adapting.lessons import Lesson, LessonFolder
from bivlm.errors import InputError


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_lesson_counts_as_not_made(damage, tmp_path):
    lessons = LessonFolder(tmp_path)
    lesson = Lesson({"input_ids": torch.tensor([[1, 2]])}, torch.tensor([[3]]), torch.ones(1, 5))
    lessons.write(7, lesson)
    assert lessons.has(7)
    assert torch.equal(lessons.read(7).inputs["input_ids"], lesson.inputs["input_ids"])
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "flipped" else content[:50])
    if damage == "gone":
        path.unlink()
    assert not lessons.has(7)
    with pytest.raises(InputError, match="lacks the lesson 7"):
        lessons.read(7)
