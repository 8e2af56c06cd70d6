"""A question by a chat template gives the text of transformers' apply_chat_template, whatever it uses."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bivlm.errors import InputError
from bivlm.families import templates
from bivlm.families.templates import apply_chat_template
from tiny import KINDS, each, tiny_processor

MESSAGE = {
    "role": "user",
    "content": [{"type": "image"}, {"type": "text", "text": 'Is it <b>red</b> & "ä" 😀?\n'}],
}
TEXT = {"role": "user", "content": " Is it red? "}


def theirs(processor: Any, message: dict[str, Any]) -> str:
    return processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize(
    "kind", each(name for name in KINDS if tiny_processor(name).chat_template is not None)
)
def test_every_family_s_template(kind: str):
    processor = tiny_processor(kind)
    assert apply_chat_template(processor, MESSAGE) == theirs(processor, MESSAGE)


TEMPLATES = {
    "special tokens": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}",
    "absent variables": "{{ tools }}{{ documents }}{{ x is defined }}{{ tools is none }}{{ y }}",
    "blocks trimmed": "  {% if true %}\n  a\n  {% endif %}\nb\n\n",
    "namespace": "{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}"
    "{{ n.x }}",
    "loop controls": "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}"
    "{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "tojson": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}"
    "{{ {'b': 1, 'a': '<é>'} | tojson(sort_keys=true, ensure_ascii=true) }}"
    "{{ [1, 2] | tojson(separators=(',', ':')) }}",
    "generation": "a{% generation %}{% set x = 1 %}{{ messages[0].role }}{% endgeneration %}"
    "{{ x is defined }}",
    "macros": "{% macro f(a, b=2) %}{{ a }}-{{ b }}{{ caller() if caller }}{% endmacro %}{{ f(1) }}"
    "{% call f(3) %}in{% endcall %}",
    "filters": "{{ ' a b ' | trim | upper | replace('A', 'x') }}{{ [3, 1] | sort | join(',') }}"
    "{{ messages | map(attribute='role') | list }}{{ 'abc'[::-1] }}{{ 'a%s' % 1 }}{{ '{}'.format(2) }}",
    "methods": "{{ 'a,b'.split(',')[-1].strip().startswith('b') }}{{ messages[0].get('role') }}"
    "{{ dict(a=1).items() | list }}{{ dict.fromkeys([1]) }}",
    "tests": "{{ messages[0].content is string }}{{ messages[0].content is iterable }}{{ 1 is number }}",
    "set block": "{% set x %}{{ 1 + 1 }}{% endset %}{{ x * 3 }}{{ x ~ x }}{{ 2 ** 10 }}",
    "the day": "{{ strftime_now('%Y') }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("message", [MESSAGE, TEXT], ids=["parts", "text"])
def test_what_templates_use(template: str, message: dict[str, Any]):
    processor = tiny_processor("llava")
    processor.chat_template = template
    assert apply_chat_template(processor, message) == theirs(processor, message)
    processor.tokenizer.chat_template = template
    assert apply_chat_template(processor.tokenizer, message) == theirs(processor.tokenizer, message)


def test_of_several_templates_the_default_is_used():
    processor = tiny_processor("llava")
    processor.chat_template = {"other": "x", "default": "y"}
    assert apply_chat_template(processor, TEXT) == "y"
    processor.chat_template = {"other": "x"}
    with pytest.raises(InputError, match="chat templates other, and none is called default"):
        apply_chat_template(processor, TEXT)
    processor.chat_template = 5
    with pytest.raises(InputError, match="the chat template must be a text, and is a int"):
        apply_chat_template(processor, TEXT)


def test_threads_get_their_own_texts():
    processor = tiny_processor("llava")
    processor.chat_template = "{{ messages[0].content }}" * 1000

    def ask(number: int) -> str:
        return apply_chat_template(processor, {"role": "user", "content": f"{number} "})

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, range(40))) == [f"{number} " * 1000 for number in range(40)]


def test_a_process_that_was_ended_from_outside_is_started_again():
    processor = tiny_processor("llava")
    before = apply_chat_template(processor, MESSAGE)
    running = templates._PROCESS._running
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert apply_chat_template(processor, MESSAGE) == before
    assert templates._PROCESS._running is not running


def test_an_interrupted_question_is_not_answered_later(monkeypatch: pytest.MonkeyPatch):
    processor = tiny_processor("llava")
    processor.chat_template = "{{ messages[0].content }}"

    def interrupt(*_: Any) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(templates.os, "read", interrupt)  # the request is on its way
        with pytest.raises(KeyboardInterrupt):
            apply_chat_template(processor, {"role": "user", "content": "first"})
    assert apply_chat_template(processor, {"role": "user", "content": "second"}) == "second"


def test_a_fork_has_a_process_of_its_own():
    processor = tiny_processor("llava")
    expected = apply_chat_template(processor, MESSAGE)
    parents = templates._PROCESS._running
    templates._PROCESS.leave()
    assert apply_chat_template(processor, MESSAGE) == expected
    assert parents is not None
    assert parents.poll() is None
    assert templates._PROCESS._running is not parents
    with parents:
        parents.kill()


def test_where_no_process_can_be_started_it_is_told(monkeypatch: pytest.MonkeyPatch):
    templates._PROCESS.close()
    monkeypatch.setattr(templates.sys, "executable", "/no/python")
    with pytest.raises(InputError, match=r"cannot be started: /no/python \(No such file"):
        apply_chat_template(tiny_processor("llava"), MESSAGE)


def test_a_server_that_embeds_python_is_not_started_for_it(monkeypatch: pytest.MonkeyPatch):
    templates._PROCESS.close()
    for server in ("/usr/bin/true", "", None):
        monkeypatch.setattr(templates.sys, "executable", server)
        processor = tiny_processor("llava")
        assert apply_chat_template(processor, MESSAGE) == theirs(processor, MESSAGE)
        templates._PROCESS.close()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the environment is read from /proc")
def test_the_process_gets_no_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    process = templates._start()
    environment, end = b"", time.monotonic() + 10
    try:
        while not environment and time.monotonic() < end:  # it is empty while the program is being loaded
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
    finally:
        process.kill()
        process.communicate()
    assert b"secret" not in environment
    assert b"PATH=" in environment
