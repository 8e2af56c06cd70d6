"""Conversations: what each mistake in one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bivlm.data.places import Look
from bivlm.data.shapes import Row, find_shape
from bivlm.errors import InputError
from bivlm.types import Sample, Video

ASKED, TOLD = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}


def read(record: dict[str, Any], wanted: bool = True) -> list[Sample]:
    return list(find_shape(record, "d.jsonl:1").samples(Row(record, "d.jsonl:1", Look(wanted=wanted))))


def test_a_question_at_the_end_has_no_answer_and_questions_in_a_row_are_one():
    first, second = read({"messages": [ASKED, TOLD, ASKED, ASKED]})
    assert (first.answers, second.answers) == (("A cat.",), ())
    assert second.question == "What?\nWhat?"
    assert [sample.origin for sample in (first, second)] == ["d.jsonl:1 turn 1", "d.jsonl:1 turn 2"]


def test_without_images_their_places_fall_away():
    record = {"image": "gone.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, TOLD]}
    [sample] = read(record, wanted=False)
    assert sample.parts == ("What?",)


def test_videos_stand_where_the_turns_say():
    """In parts, by `<video>`, by `<image>` where there is no image (LLaVA-Video), or else in front."""
    clip = Video(Path("a.gif"))
    parts = [{"type": "video_url", "video_url": {"url": "a.gif"}}, {"type": "text", "text": "What?"}]
    framed = {"type": "video", "video": ["1.png", "2.png"], "fps": 2}
    for record, expected in (
        ({"messages": [{"role": "user", "content": parts}, TOLD]}, (clip, "What?")),
        ({"video": "a.gif", "messages": [ASKED, TOLD]}, (clip, "What?")),
        (
            {"video": "a.gif", "messages": [{"role": "user", "content": "<image>\nWhat?"}, TOLD]},
            (clip, "What?"),
        ),
        (
            {
                "images": ["0.png"],
                "videos": ["a.gif"],
                "texts": [{"user": "A<video>B<image>C", "assistant": "D"}],
            },
            ("A", clip, "B", Path("0.png"), "C"),
        ),
        (
            {"messages": [{"role": "user", "content": [framed, *parts[1:]]}, TOLD]},
            (Video((Path("1.png"), Path("2.png")), fps=2.0), "What?"),
        ),
    ):
        assert read(record)[0].parts == expected
    assert read({"video": "a.gif", "messages": [ASKED, TOLD]}, wanted=False)[0].parts == ("What?",)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": []}, "the conversation is empty"),
        ({"messages": ["What?"]}, "each entry of 'messages' must be an object, and one is a str"),
        ({"messages": [TOLD]}, "an answer is there without a question before it"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "a turn of 'messages' is from 'tool'"),
        ({"messages": [{"content": "x"}]}, "a turn of 'messages' is from 'None'"),
        ({"messages": [{"role": "user", "content": ""}]}, "'content' of a turn is empty"),
        ({"messages": [{"role": "user"}]}, "'value' of a turn must be a text, and is null"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "is 'audio' from the user"),
        ({"messages": [{"role": "user", "content": [3]}]}, "is 'None' from the user"),
        (
            {"messages": [ASKED, {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]}]},
            "is 'image' from the assistant",
        ),
        (
            {"messages": [{"role": "user", "content": "<image>"}, TOLD]},
            "places for 1 images, and 0 are there",
        ),
        (
            {"images": ["a.png", "b.png"], "messages": [{"role": "user", "content": "<image> What?"}, TOLD]},
            "places for 1 images, and 2 are there",
        ),
        (
            {"video": "a.gif", "messages": [{"role": "user", "content": "<video>or<video> What?"}, TOLD]},
            "places for 2 videos, and 1 are there",
        ),
        ({"images": "a.png", "messages": [ASKED, TOLD]}, "'images' must be a list of texts"),
        ({"texts": [{"user": "What?"}]}, "'assistant' of a turn must be a text, and is null"),
        ({"texts": [3]}, "each entry of 'texts' must be an object"),
        ({"system": 3, "messages": [ASKED, TOLD]}, "'system' must be a text"),
    ],
    ids=str,
)
def test_mistakes_are_named(record: dict[str, Any], message: str):
    with pytest.raises(InputError) as caught:
        read(record)
    assert str(caught.value).startswith("d.jsonl:1: ")
    assert message in str(caught.value)
