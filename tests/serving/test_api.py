"""What OpenAI's own client gets from the server, and what it is told when it asks for what there is not."""

from __future__ import annotations

import http.client
import json
import urllib.request
from urllib.parse import urlparse

import openai
import pytest

import bivlm
from served import LIMITS


def ask(server, content, **settings):
    messages = [{"role": "user", "content": content}]
    return server.client().chat.completions.create(model="tiny", messages=messages, **settings)


def test_a_question_about_a_picture(server, loaded, picture):
    image, part = picture
    found = ask(server, [part, {"type": "text", "text": "What is it?"}], max_tokens=12)
    [choice] = found.choices
    assert choice.message.content == bivlm.answer(*loaded, image, "What is it?", max_new_tokens=12)
    assert choice.finish_reason in ("stop", "length")
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert 0 < found.usage.completion_tokens <= 12


def test_a_stream_has_the_same_text(server, picture):
    content = [picture[1], {"type": "text", "text": "What is it?"}]
    whole = ask(server, content, max_tokens=12)
    pieces = list(ask(server, content, max_tokens=12, stream=True, stream_options={"include_usage": True}))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text.rstrip() == whole.choices[0].message.content
    assert pieces[-1].usage == whole.usage
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len({piece.id for piece in pieces}) == 1
    assert len(pieces) > 4


def test_a_conversation_with_a_system_prompt_and_no_picture(server, loaded):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is red?"},
        {"role": "assistant", "content": "A rose."},
        {"role": "user", "content": [{"type": "text", "text": "And green?"}]},
    ]
    found = server.client().chat.completions.create(model="/models/tiny", messages=messages, max_tokens=4)
    assert found.usage.completion_tokens <= 4
    alone = server.client().chat.completions.create(model="tiny", messages=messages[-1:], max_tokens=4)
    assert found.usage.prompt_tokens > alone.usage.prompt_tokens


def test_what_is_drawn_depends_on_the_seed_alone(server):
    def drawn(seed):
        found = ask(server, "Say something.", max_tokens=20, temperature=1.5, top_p=0.9, seed=seed)
        return found.choices[0].message.content

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


def test_an_answer_ends_before_a_stop_text(server):
    whole = ask(server, "Say something.", max_tokens=20).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    found = ask(server, "Say something.", max_tokens=20, stop=[stop]).choices[0]
    assert found.message.content == whole[: whole.index(stop)].rstrip()
    assert found.finish_reason == "stop"


def test_models_and_health(server):
    assert [model.id for model in server.client().models.list()] == ["tiny"]
    with urllib.request.urlopen(f"{server.address}/health") as answer:
        assert json.load(answer) == {"status": "ok"}


def test_metrics_count_requests_and_tokens(server):
    def count(name):
        with urllib.request.urlopen(f"{server.address}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = count('bivlm_requests_total{end="length"}'), count("bivlm_answer_tokens_total")
    ask(server, "Say something.", max_tokens=3)
    after = count('bivlm_requests_total{end="length"}'), count("bivlm_answer_tokens_total")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 3)
    assert count("bivlm_requests_under_way") == 0


TEXT = {"type": "text", "text": "What?"}
REFUSED = {
    "unknown role": ([{"role": "robot", "content": "x"}], "has the role 'robot'"),
    "no question": ([{"role": "system", "content": "x"}], "asks nothing"),
    "answer first": ([{"role": "assistant", "content": "x"}], "an answer without a question"),
    "no content": ([{"role": "user"}], "has no content"),
    "a sound": ([{"role": "user", "content": [{"type": "input_audio"}]}], "'input_audio'"),
    "an address": (
        [{"role": "user", "content": [TEXT, {"type": "image_url", "image_url": {"url": "http://[::1]/"}}]}],
        "fetches nothing",
    ),
    "a file": (
        [{"role": "user", "content": [TEXT, {"type": "image_url", "image_url": "/etc/passwd"}]}],
        "reads no files",
    ),
    "broken base64": (
        [{"role": "user", "content": [TEXT, {"type": "image_url", "image_url": "data:image/png;base64,@@"}]}],
        "damaged base64",
    ),
    "no picture": (
        [
            {
                "role": "user",
                "content": [TEXT, {"type": "image_url", "image_url": "data:image/png;base64,AAAA"}],
            }
        ],
        "cannot be read as an image",
    ),
    "token of an image": ([{"role": "user", "content": "<image> what?"}], "the place of an image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_is_refused_in_words(server, name):
    messages, said = REFUSED[name]
    with pytest.raises(openai.BadRequestError) as found:
        server.client().chat.completions.create(model="tiny", messages=messages)
    assert said in found.value.message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"max_tokens": 41}, "this server takes 1 to 40"),
        ({"temperature": 3}, "temperature is 3.0"),
        ({"top_p": 0}, "top_p is 0.0"),
        ({"n": 2}, "one answer"),
        ({"stop": list("abcde")}, "5 stop texts"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "without tools"),
        ({"response_format": {"type": "json_object"}}, "another form than text"),
        ({"max_tokens": "many"}, "max_tokens: "),
    ],
)
def test_settings_that_are_not_served_are_refused(server, settings, said):
    with pytest.raises(openai.BadRequestError) as found:
        ask(server, "What?", **settings)
    assert said in found.value.message


def test_another_model_and_too_many_pictures(server, picture):
    with pytest.raises(openai.BadRequestError, match="there is no model 'gpt'"):
        server.client().chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="3 images are given"):
        ask(server, [picture[1]] * 3 + [TEXT])


def test_a_body_that_is_too_large_or_no_json(server):
    with pytest.raises(openai.APIStatusError) as found:
        ask(server, "x" * LIMITS.body_bytes)
    assert found.value.status_code == 413
    connection = http.client.HTTPConnection(urlparse(server.address).netloc)
    connection.request("POST", "/v1/chat/completions", b"{", {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, b"JSON" in answer.read()) == (400, True)
    connection.request("POST", "/v1/chat/completions", iter([b"{}"]), encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()
