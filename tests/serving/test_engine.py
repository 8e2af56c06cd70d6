"""Many clients at once: each gets what it gets alone, too many are refused, those that leave cost nothing."""

from __future__ import annotations

import gc
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import openai
import pytest

import bivlm
from bivlm.errors import InputError
from bivlm.serving import engine as module
from bivlm.serving.asked import Ended, Failed, Request, Sampling
from bivlm.serving.engine import FAULT, Busy, Engine
from bivlm.serving.words import Words
from bivlm.types import Sample
from served import LIMITS, Client, Server, until

QUESTIONS = [f"What is {'very ' * number}big?" for number in range(7)]
LONGEST = 12


@pytest.fixture
def engine(loaded):
    engine = Engine(*loaded, most_rows=3, most_waiting=6)
    yield engine
    if engine.is_alive:
        engine.stop()


def submitted(engine, questions=QUESTIONS, most=LONGEST, **settings):
    clients = [Client() for _ in questions]
    for question, client in zip(questions, clients, strict=True):
        engine.submit(Request(Sample(None, question), client, most, **settings))
    return clients


@pytest.fixture(scope="module")
def alone(loaded):
    return [bivlm.answer(*loaded, None, question, max_new_tokens=LONGEST) for question in QUESTIONS]


@pytest.mark.parametrize("joins", [True, False])
def test_more_requests_than_rows_get_the_answers_that_they_get_alone(engine, alone, joins):
    engine.joins = joins
    clients = submitted(engine, QUESTIONS[:6])
    engine.start()
    clients += submitted(engine, QUESTIONS[6:])
    assert all(isinstance(client.wait(), Ended) for client in clients)
    assert [client.text.strip() for client in clients] == alone
    assert (engine.waiting, engine.under_way) == (0, 0)


def test_too_many_are_refused_and_those_that_wait_are_answered_before_the_end(engine, alone):
    clients = submitted(engine, QUESTIONS[:6])
    with pytest.raises(Busy):
        submitted(engine, QUESTIONS[6:])
    engine.start()
    engine.stop()
    assert [client.text.strip() for client in clients] == alone[:6]
    with pytest.raises(Busy):
        submitted(engine, QUESTIONS[:1])


@pytest.mark.parametrize("joins", [True, False])
def test_one_that_cannot_be_asked_does_not_harm_those_beside_it(engine, alone, joins):
    engine.joins = joins
    clients = submitted(engine, [QUESTIONS[0], "<image> what?", QUESTIONS[1]])
    engine.start()
    assert "the place of an image" in clients[1].wait().message
    assert [clients[0].wait().reason, clients[2].wait().reason] == ["length"] * 2
    assert [clients[0].text.strip(), clients[2].text.strip()] == alone[:2]


@pytest.mark.parametrize("joins", [True, False])
def test_who_leaves_makes_room(engine, alone, joins):
    engine.joins = joins
    gone = threading.Event()
    waiting = threading.Event()
    waiting.set()
    never = Client()
    engine.submit(Request(Sample(None, "Why?"), never, 10**6, cancelled=waiting))
    leaving = Client()
    engine.submit(Request(Sample(None, "Why?"), leaving, 40, cancelled=gone))
    [staying] = submitted(engine, QUESTIONS[:1])
    gone.set()
    engine.start()
    assert never.wait() == Ended("cancelled", 0, 0)
    assert leaving.wait().reason == "cancelled"
    assert leaving.end.answer_tokens <= 1
    staying.wait()
    assert staying.text.strip() == alone[0]


def test_a_fault_is_told_and_the_engine_goes_on(engine, alone, monkeypatch, caplog):
    def broken(_):
        raise RuntimeError("out of paper")

    monkeypatch.setattr(module.JointBatch, "step", broken)
    clients = submitted(engine, QUESTIONS[:2])
    engine.start()
    assert [client.wait() for client in clients] == [Failed(FAULT, internal=True)] * 2
    assert "out of paper" in caplog.text
    monkeypatch.undo()
    [after] = submitted(engine, QUESTIONS[:1])
    after.wait()
    assert after.text.strip() == alone[0]


def test_draws_do_not_depend_on_who_else_asks(engine):
    sampling = Sampling(temperature=1.0, seed=5)
    [alone] = submitted(engine, QUESTIONS[:1], sampling=sampling)
    engine.start()
    alone.wait()
    together = submitted(engine, QUESTIONS[:3], sampling=sampling)
    together[0].wait()
    assert together[0].text == alone.text


def test_numbers_out_of_range():
    for wrong in ({"temperature": -1}, {"temperature": 2.1}, {"top_p": 0}, {"top_p": 1.5}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Sampling(**wrong)
    with pytest.raises(InputError, match="max_tokens is 0"):
        Request(Sample(None, "x"), Client(), 0)


def ask(server, question="What?", key="none", **settings):
    messages = [{"role": "user", "content": question}]
    return server.client(key).chat.completions.create(model="tiny", messages=messages, **settings)


def test_clients_of_the_server_get_the_same_and_too_many_are_told_to_wait(loaded, alone):
    server = Server(*loaded, most_rows=2, most_waiting=2)
    try:
        with ThreadPoolExecutor(len(QUESTIONS)) as pool:
            found = list(pool.map(lambda question: _outcome(server, question), QUESTIONS))
    finally:
        server.stop()
    refused = [error for _, error in found if error is not None]
    assert all("try again" in error.message for error in refused)
    assert len(refused) <= len(QUESTIONS) - 2
    assert all(text in (None, expected) for (text, _), expected in zip(found, alone, strict=True))


def _outcome(server, question):
    """The answer, or what a client is told that is to come again."""
    try:
        return ask(server, question, max_tokens=LONGEST).choices[0].message.content, None
    except openai.RateLimitError as error:
        return None, error


def test_a_key_and_a_time_limit(loaded, monkeypatch):
    server = Server(*loaded, limits=replace(LIMITS, api_key="sesame", seconds=1.0))
    try:
        with pytest.raises(openai.AuthenticationError):
            ask(server, max_tokens=1)
        assert ask(server, key="sesame", max_tokens=1).usage.completion_tokens == 1
        step = module.JointBatch.step
        monkeypatch.setattr(module.JointBatch, "step", lambda batch: (time.sleep(0.1), step(batch)))
        with pytest.raises(openai.APIStatusError, match="not complete after 1 seconds") as found:
            ask(server, key="sesame", max_tokens=40)
        assert found.value.status_code == 504
        until(lambda: server.engine.under_way == 0)
    finally:
        server.stop()


def test_a_client_that_hangs_up_ends_its_answer(loaded, monkeypatch):
    step = module.JointBatch.step
    monkeypatch.setattr(module.JointBatch, "step", lambda batch: (time.sleep(0.05), step(batch)))
    server = Server(*loaded)
    try:
        stream = ask(server, max_tokens=40, stream=True)
        next(iter(stream))
        until(lambda: server.engine.under_way == 1)
        stream.close()
        until(lambda: server.engine.under_way == 0)
    finally:
        server.stop()


def test_two_clients_that_hang_up_leave_a_third_its_answer(loaded, alone, monkeypatch):
    step = module.JointBatch.step
    monkeypatch.setattr(module.JointBatch, "step", lambda batch: (time.sleep(0.05), step(batch)))
    server = Server(*loaded)
    try:
        streams = [ask(server, max_tokens=40, stream=True) for _ in range(2)]
        with ThreadPoolExecutor(1) as pool:
            staying = pool.submit(ask, server, QUESTIONS[0], max_tokens=LONGEST)
            until(lambda: server.engine.under_way == 3)
            for stream in streams:
                stream.close()
            assert staying.result().choices[0].message.content == alone[0]
        until(lambda: server.engine.under_way == 0)
    finally:
        server.stop()


# of what is not sent, when it is thrown away
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_client_that_does_not_read_holds_up_nobody_and_no_end(loaded, alone, monkeypatch):
    _ask_and_do_not_read(loaded, alone, monkeypatch)
    gc.collect()


def _ask_and_do_not_read(loaded, alone, monkeypatch):
    """The answer is large, and the socket's buffers small: the server cannot write all of it."""
    monkeypatch.setattr(Words, "add", lambda words, token: "x" * 1_000_000)
    server = Server(*loaded, replace(LIMITS, seconds=2.0))
    with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        messages = [{"role": "user", "content": "Why?"}]
        body = json.dumps({"messages": messages, "max_tokens": 40, "ignore_eos": True, "stream": True})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        slow.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
        begun = b""
        while b"xxxx" not in begun:
            begun += slow.recv(100)
        until(lambda: server.engine.under_way == 0)
        monkeypatch.undo()
        assert ask(server, QUESTIONS[0], max_tokens=LONGEST).choices[0].message.content == alone[0]
        began = time.monotonic()
        server.stop()
        assert 1 < time.monotonic() - began < 10, "it waited for the client, and not for ever"
