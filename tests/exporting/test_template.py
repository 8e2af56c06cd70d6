"""The exported template, given llama.cpp's markers, writes what the model's own writes, with the markers in
the images' places.
"""

from __future__ import annotations

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bivlm.exporting.table import EXPORTERS
from bivlm.exporting.template import from_prompt, with_markers
from tiny import ALL

MARKER = "<__media_q8Zk__>"
KINDS = [name for name, kind in ALL.items() if kind.model_type in EXPORTERS and name != "llava_pixtral"]


def render(template, messages):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    made = environment.from_string(template)
    return made.render(messages=messages, add_generation_prompt=True, bos_token="<s>")


def parts(*given):
    return [{"type": "image"} if one is None else {"type": "text", "text": one} for one in given]


def marked(*given):
    """What llama.cpp makes of these parts: one text."""
    return [{"type": "text", "text": "".join(MARKER if one is None else one for one in given)}]


CONVERSATIONS = [
    [(None, "Is it red?")],
    [("What is this?",)],
    [(None, None, "Which is red?")],
    [("Compare ", None, " with ", None, ", please.\n")],
    [(None, "Is it red?"), ("yes",), ("Why? __>",)],
]


@pytest.mark.parametrize("asked", CONVERSATIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_markers_stand_where_the_images_stood(kind, asked):
    exporter, template = EXPORTERS[ALL[kind].model_type], ALL[kind].chat_template()
    roles = ("user", "assistant") * 2
    own = [{"role": role, "content": parts(*turn)} for role, turn in zip(roles, asked, strict=False)]
    theirs = [{"role": role, "content": marked(*turn)} for role, turn in zip(roles, asked, strict=False)]
    before, after = exporter.around
    expected = render(template, own).replace(exporter.place, before + MARKER + after)
    assert expected.count(MARKER) == sum(turn.count(None) for turn in asked)
    assert render(with_markers(template, exporter.place, exporter.around), theirs) == expected


def test_texts_alone_come_as_they_are():
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    asked = [{"role": "user", "content": "Hi __> {{ 7 }}"}]
    assert render(with_markers(template, "<image>"), asked) == "Hi __> {{ 7 }}"


def test_a_message_that_is_one_text_may_hold_markers():
    shown = "{{ '<image>' if part['type'] == 'image' else part['text'] }}|"
    template = "{% for part in messages[0]['content'] %}" + shown + "{% endfor %}"
    asked = [{"role": "user", "content": f"{MARKER}Is it red?"}]
    assert render(with_markers(template, "<image>"), asked) == f"{MARKER}|Is it red?|"


def test_a_prompt_becomes_a_template():
    template = from_prompt('{bos}USER: {image}{question}"\\ ASSISTANT:', "<image>\n")
    asked = [{"role": "user", "content": parts(None, "Is it red?")}]
    assert render(template, asked) == 'USER: <image>\nIs it red?"\\ ASSISTANT:'
