"""Hostile chat templates: each is refused by name, in bounded time and memory."""

from __future__ import annotations

import re
import resource
import time
from pathlib import Path

import pytest

from bivlm.errors import InputError
from bivlm.families import templates
from bivlm.families.processors import load_processor
from bivlm.families.templates import apply_chat_template
from tiny import tiny_processor

MESSAGE = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it red?"}]}

HOSTILE = {
    "a type's subclasses": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "the globals of a function": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "SecurityError"),
    "a private name": ("{% set n = namespace(__x=1) %}", "SecurityError"),
    "a changed message": ("{{ messages.append(1) }}", "SecurityError"),
    "a long range": ("{% for i in range(100000000) %}x{% endfor %}", "OverflowError"),
    "a long text": ("{{ 'a' * 9999999999 }}", "512 MiB of memory"),
    "a long list": ("{% set x = [1] * 9999999999 %}", "512 MiB of memory"),
    "a doubled text": (
        "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "512 MiB of memory",
    ),
    "a wide format": ("{{ '%9999999999d' % 1 }}", "512 MiB of memory|OverflowError|ValueError"),
    "a padded text": ("{{ 'a' | center(9999999999) }}", "512 MiB of memory"),
    "much text": ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "more than 4194304 characters"),
    "a number too long to write": ("{{ 10 ** 9999 }}", "ValueError"),
    "a file": ("{% include '/etc/passwd' %}", "no loader|TypeError"),
    "a recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "a syntax error": ("\n{% if %}", "line 2: .*TemplateSyntaxError"),
    "a filter that is none": ("{{ 1 | nothing }}", "TemplateAssertionError"),
    "a division by zero": ("a\nb\n{{ 1 / 0 }}", "line 3: .*ZeroDivisionError"),
    "its own refusal": ("{{ raise_exception('Roles must alternate') }}", r"\(Roles must alternate\)"),
    "deep nesting": (
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "RecursionError|status|memory",
    ),
    "a refusal with terminal codes": ("{{ raise_exception('\x1b[2J\n') }}", r"\\x1b\[2J\\n"),
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch):
    """One second instead of five; a process with these settings, and none after it."""
    monkeypatch.setattr(templates, "SECONDS", 1)
    templates._PROCESS.close()
    yield
    templates._PROCESS.close()


def refusal(template: str) -> str:
    processor = tiny_processor("llava")
    processor.chat_template = template
    with pytest.raises(InputError) as caught:
        apply_chat_template(processor, MESSAGE)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    return message


@pytest.mark.parametrize(("template", "said"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_is_refused_in_one_line(template: str, said: str):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refusal(template)
    assert re.search(said, message)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 100 << 10
    processor = tiny_processor("llava")
    assert "Is it red?" in apply_chat_template(processor, MESSAGE), "the next template is rendered"


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        pytest.param("{{ (9 ** 9999999) % 7 }}", marks=pytest.mark.slow),
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
        "{{ n.x | string | length }}",
    ],
    ids=["empty loops", "a power", "a list that doubles"],
)
def test_a_template_that_computes_without_end_is_ended(template: str, quick: None):
    start = time.perf_counter()
    assert re.search("it takes more than 1 seconds|512 MiB of memory", refusal(template))
    assert time.perf_counter() - start < 30
    assert "Is it red?" in apply_chat_template(tiny_processor("llava"), MESSAGE)


def test_the_file_of_the_template_is_named(tmp_path: Path):
    tiny_processor("llava").save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("one\n{{ messages[7].role }}")
    with pytest.raises(InputError, match=f"^{tmp_path}/chat_template.jinja, line 2: the chat"):
        apply_chat_template(load_processor(tmp_path), MESSAGE)


def test_the_limits_that_the_documents_state():
    assert (templates.SECONDS, templates.MEMORY_BYTES, templates.CHARACTERS) == (5, 512 << 20, 1 << 22)
