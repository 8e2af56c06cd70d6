"""lmms-eval's chats and generation settings as bivlm's."""

import pytest
from PIL import Image

from bivlm.errors import InputError
from bivlm.lmms.messages import MOST_TOKENS, Decoding, sample_of

RED = Image.new("RGB", (4, 4), "red")


def text(words):
    return {"type": "text", "text": words}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def test_images_keep_their_places_in_the_text():
    chat = [
        user(
            text("Is this "),
            {"type": "image", "url": RED},
            text(" the same as "),
            {"type": "image", "url": "a.png"},
        )
    ]
    sample = sample_of(chat, "task/test:3")
    assert [str(part) if not isinstance(part, Image.Image) else part for part in sample.parts] == [
        "Is this ",
        RED,
        " the same as ",
        "a.png",
    ]
    assert sample.origin == "task/test:3"


def test_a_system_prompt_is_the_samples():
    chat = [{"role": "system", "content": [text("Answer in one word.")]}, user(text("Why?"))]
    sample = sample_of(chat, "")
    assert (sample.system, sample.question, sample.images) == ("Answer in one word.", "Why?", ())


@pytest.mark.parametrize(
    "chat",
    [
        [user(text("One?")), {"role": "assistant", "content": [text("1")]}, user(text("Two?"))],
        [{"role": "system", "content": [text("Nothing is asked.")]}],
    ],
)
def test_other_than_one_question_is_refused(chat):
    with pytest.raises(InputError, match="task/test:0: the chat has"):
        sample_of(chat, "task/test:0")


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_other_media_are_named(kind):
    with pytest.raises(InputError, match=f"the chat holds {kind}"):
        sample_of([user({"type": kind, "url": "a.mp4"}, text("What?"))], "")


def test_settings_of_a_task():
    decoding = Decoding.of({"max_new_tokens": 8, "until": ["\n\n", ""], "temperature": 0, "do_sample": False})
    assert decoding == Decoding(8, ("\n\n",))
    assert decoding.cut(" a cat \n\nNo, a dog") == "a cat"
    assert Decoding.of({"until": "."}) == Decoding(MOST_TOKENS, (".",))
    assert Decoding.of({}).cut(" all of it. ") == "all of it."


@pytest.mark.parametrize("settings", [{"num_beams": 4}, {"do_sample": True, "temperature": 0.7}])
def test_other_decoding_is_refused(settings):
    with pytest.raises(InputError, match="decodes greedily"):
        Decoding.of(settings)
