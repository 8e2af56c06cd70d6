"""The exported template, given llama.cpp's markers, writes what the model's own writes, with the markers in
the images' places.
"""

from __future__ import annotations

import re

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

import bivlm
from bivlm.exporting.table import EXPORTERS
from bivlm.exporting.template import from_prompt, with_markers, without_marks
from stock_llama import LlamaCpp
from tiny import ALL, tiny_checkpoint

MARKER = "<__media_q8Zk__>"
ROLES = ("user", "assistant") * 2
KINDS = [name for name, kind in ALL.items() if kind.model_type in EXPORTERS and name != "llava_pixtral"]


# what templates of real models make use of, each with what it writes for an image
FORMS = {
    "images first": (
        "<image>",
        (
            "{% for message in messages %}{{ message['role'] | upper + ': ' }}{# pictures #}{% for part in"
            " message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{%"
            " for part in message['content'] | selectattr('type', 'equalto', 'text') %}{% generation %}{{"
            " part['text'] + ' ' }}{% endgeneration %}{% endfor %}{% endfor %}{% if add_generation_prompt"
            " %}{{ 'ASSISTANT:' }}{% endif %}"
        ),
    ),
    "counted": (
        "<|a|><|pad|><|b|>",
        (
            "{% set seen_images = namespace(count=0) %}{% for message in messages %}{% if loop.first and"
            " message['role'] != 'system' %}<|im|>system\nHelp.<|end|>\n{% endif %}<|im|>{{ message['role']"
            " }}\n{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in"
            " message['content'] %}{% if part['type'] == 'image' or 'image' in part %}{% set"
            " seen_images.count = seen_images.count + 1 %}{% if add_vision_id %}{{ seen_images.count }}: {%"
            " endif %}<|a|><|pad|><|b|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{%"
            " endif %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|im|>assistant\n{% endif %}"
        ),
    ),
    "trimmed": (
        "<boi>",
        (
            "{%- set turns = messages[0:] -%}{%- for message in turns -%}{%- if (message['role'] == 'user')"
            " != (loop.index0 % 2 == 0) -%}{{ raise_exception('roles must alternate') }}{%- endif -%}{%- set"
            " role = 'model' if message['role'] == 'assistant' else message['role'] -%}{{ '<turn>' + role +"
            " '\n' }}{%- if message['content'] is string -%}{{ message['content'] | trim }}{%- elif"
            " message['content'] is iterable -%}{%- for part in message['content'] -%}{%- if part['type'] =="
            " 'image' -%}{{ '<boi>' }}{%- elif part['type'] == 'text' -%}{{ part['text'] | trim }}{%- endif"
            " -%}{%- endfor -%}{%- endif -%}{{ '<end>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{"
            " '<turn>model\n' }}{%- endif -%}"
        ),
    ),
    "first part": (
        "<image>",
        (
            "{% for message in messages %}{{ message['role'] | capitalize }}"
            "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
            "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
            "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end>\n{% endfor %}"
            "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
        ),
    ),
}


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
    own = [{"role": role, "content": parts(*turn)} for role, turn in zip(ROLES, asked, strict=False)]
    theirs = [{"role": role, "content": marked(*turn)} for role, turn in zip(ROLES, asked, strict=False)]
    before, after = exporter.around
    expected = render(template, own).replace(exporter.place, before + MARKER + after)
    assert expected.count(MARKER) == sum(turn.count(None) for turn in asked)
    assert render(with_markers(template, exporter.place, exporter.around), theirs) == expected


@pytest.mark.parametrize("asked", CONVERSATIONS, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_templates_as_real_models_have_them(form, asked):
    place, template = FORMS[form]
    template = without_marks(template)
    own, theirs = (
        [{"role": role, "content": make(*turn)} for role, turn in zip(ROLES, asked, strict=False)]
        for make in (parts, marked)
    )
    expected = render(template, own).replace(place, MARKER)
    assert render(with_markers(template, place), theirs) == expected


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_llama_cpp_renders_them_alike(form, tmp_path):
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
    place, template = FORMS[form]
    made = with_markers(without_marks(template), place, ("[", "]"))
    bivlm.export_gguf(tiny_checkpoint("llava_siglip", tmp_path / "model"), tmp_path / "out")
    server = LlamaCpp(tmp_path / "out", made)
    for asked in CONVERSATIONS:
        own = [{"role": role, "content": parts(*turn)} for role, turn in zip(ROLES, asked, strict=False)]
        expected = render(without_marks(template), own).replace(place, f"[{MARKER}]")
        turns = list(zip(ROLES, asked, strict=False))
        assert re.sub(r"<__media\w*__>", MARKER, server.rendered(turns)) == expected


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
