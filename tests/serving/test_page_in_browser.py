"""The page in a real browser, with the embedded model packed to two bits. BIVLM_TEST_SCREENSHOTS names a
folder for pictures of it (docs/pictures/ has three).
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

import bivlm
from bivlm.data.images import open_image
from bivlm.data.samples import read_samples
from bivlm.serving.joint import JointBatch
from bivlm.serving.serve import site_of
from bivlm.zoo import embedded_model
from browsers import opened_browser
from served import LIMITS, Server, until

pytestmark = pytest.mark.slow
SIZES = {"wide": {"width": 900, "height": 700}, "phone": {"width": 390, "height": 780}}
STICKING_OUT = """() => [...document.body.querySelectorAll('*')]
    .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map(one => one.outerHTML.slice(0, 100))"""
EXPECTED = {  # on the console
    "test_what_the_server_refuses_is_shown_in_its_words": ("Failed to load resource",),
    "test_an_answer_cannot_do_anything": ("Loading the image 'http://elsewhere.invalid/a.png' violates",),
}
FOCUSED = """() => {
    let one = document.activeElement
    while (one.shadowRoot?.activeElement) one = one.shadowRoot.activeElement
    return one.id || one.getAttribute('aria-label') || one.tagName
}"""
GIVE = """(chat, [how, name, base64]) => {
    const bytes = Uint8Array.from(atob(base64), sign => sign.charCodeAt(0))
    const data = new DataTransfer()
    data.items.add(new File([bytes], name, { type: 'image/png' }))
    const inside = id => chat.shadowRoot.getElementById(id)
    if (how === 'paste')
        inside('text-input').dispatchEvent(
            new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))
    else {
        const target = inside('drag-and-drop')
        inside('container').dispatchEvent(new DragEvent('dragenter', { dataTransfer: data, bubbles: true }))
        target.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true }))
    }
}"""
COLOURS = """name => {
    const style = getComputedStyle(document.body)
    return [style.color, style.backgroundColor]
}"""


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "easy-llava-2bit"
    calibration = read_samples("easy-vqa", split="train", limit=8)
    return bivlm.quantize(embedded_model(), folder, recipe="trellis-2", data=calibration)


@pytest.fixture(scope="module")
def answering(packed):
    """A server of a model that answers as it has learned, and the model."""
    loaded = bivlm.load(packed)
    server = Server(*loaded, replace(LIMITS, most_images=3), site_of(packed))
    yield server, loaded
    server.stop()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Pictures of shapes, and a question about each."""
    folder = tmp_path_factory.mktemp("shapes")
    found = []
    for number, sample in enumerate(read_samples("easy-vqa", split="test", limit=3)):
        path = folder / f"shape-{number}.png"
        open_image(sample.image).resize((256, 256)).save(path)
        found.append((path, sample.question))
    return found


@pytest.fixture
def page(browser, answering, request):
    """The page, wide or on a phone, in a scheme; nothing goes wrong on it and nothing comes from
    elsewhere.
    """
    size, scheme = getattr(request, "param", ("wide", "light"))
    context = browser.new_context(viewport=SIZES[size], color_scheme=scheme)
    page = context.new_page()
    asked, wrong = [], []
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda one: wrong.append(one.text))
    page.on("pageerror", lambda one: wrong.append(str(one)))
    page.goto(answering[0].address + "/")
    page.locator("#text-input:focus").wait_for()
    yield page
    picture(page, f"{request.node.name.partition('[')[0]}-{size}-{scheme}")
    context.close()
    expected = EXPECTED.get(request.node.name, ())
    assert [line for line in wrong if not line.startswith(expected)] == []
    elsewhere = [url for url in asked if not url.startswith((answering[0].address, "data:", "blob:"))]
    assert [url for url in elsewhere if "elsewhere.invalid" not in url] == []


def picture(page, name):
    if folder := os.environ.get("BIVLM_TEST_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def give(page, path, how="drop"):
    """A picture is dropped or pasted into the page, and is seen there."""
    before = page.locator(".image-attachment").count()
    content = base64.b64encode(path.read_bytes()).decode()
    page.locator("deep-chat").evaluate(GIVE, [how, path.name, content])
    page.locator(".image-attachment").nth(before).wait_for()


def ask(page, question):
    """The answer, once it is complete, and what is told of it."""
    answers = page.locator(".ai-message-text")
    before = answers.count()
    page.locator("#text-input").fill(question)
    page.keyboard.press("Enter")
    answers.nth(before).wait_for()
    page.locator("#speed", has_text="tokens read").wait_for()
    return answers.nth(before).inner_text(), page.locator("#speed").inner_text()


EVERYWHERE = [("wide", "light"), ("wide", "dark"), ("phone", "light"), ("phone", "dark")]


@pytest.mark.parametrize("page", EVERYWHERE, indirect=True)
def test_a_conversation_about_pictures(page, answering, shapes):
    server, loaded = answering
    (first, question), (second, other), _ = shapes
    give(page, first)
    answer, told = ask(page, question)
    assert answer == bivlm.answer(*loaded, first, question)
    assert re.fullmatch(r"\d+ tokens read · 2 answered · first after \d+\.\d s", told), (
        "two tokens have no speed"
    )
    give(page, second, "paste")
    bodies = []
    page.on("request", lambda one: bodies.append(one.post_data))
    ask(page, other)
    messages = json.loads(bodies[0])["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == answer
    images = [part["image_url"]["url"] for part in (*messages[0]["content"], *messages[2]["content"])[::2]]
    assert [base64.b64decode(uri.partition(",")[2]) for uri in images] == [
        first.read_bytes(),
        second.read_bytes(),
    ]
    said = [text for text in page.locator(".user-message-text").all_inner_texts() if text]
    assert said == [question, other]
    assert page.evaluate(STICKING_OUT) == []
    size = f"{sum(path.stat().st_size for path in server_files(server)) / 1e6:.1f} MB"
    assert page.locator("#facts").inner_text() == f"{size} · 2.06 true bits per weight"


def server_files(server):
    """The weight files of the served model."""
    return list(Path(server.site.names[1]).glob("*.safetensors"))


@pytest.mark.parametrize("page", [("wide", "light"), ("wide", "dark")], indirect=True)
def test_text_stands_out(page, request):
    scheme = request.node.callspec.params["page"][1]
    ink, paper = (sum(map(int, colour[4:-1].split(","))) / 3 for colour in page.evaluate(COLOURS))
    assert abs(ink - paper) > 180
    assert (ink < paper) == (scheme == "light")


def test_the_keyboard_does_everything(page, shapes):
    page.on("filechooser", lambda _: None)  # well before one opens
    assert page.evaluate(FOCUSED) == "text-input", "one may type at once"
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    assert [name for name in reached if name != "BODY"] == [
        "Send, or stop the answer",
        "Choose pictures",
        "share",
        "clear",
        "messages",
    ]
    page.locator("[aria-label='Choose pictures']").focus()
    with page.expect_file_chooser() as choosing:
        page.keyboard.press("Enter")
    choosing.value.set_files(shapes[0][0])
    page.locator(".image-attachment").wait_for()
    page.locator("[aria-label='Remove the picture']").focus()
    page.keyboard.press("Space")
    page.locator(".image-attachment").wait_for(state="detached")
    page.locator("#text-input").focus()
    page.keyboard.type(shapes[0][1])
    page.keyboard.press("Enter")
    page.locator("#speed", has_text="tokens read").wait_for()
    page.locator("#share").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#kept").inner_text() == "95 %"
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    page.locator(".user-message-text").wait_for(state="detached")
    page.locator("#text-input:focus").wait_for()


def test_the_slider_is_what_is_asked_of_the_server(page, shapes):
    shares = []
    page.on("request", lambda one: shares.append(json.loads(one.post_data).get("visual_tokens")))
    give(page, shapes[0][0])
    ask(page, shapes[0][1])
    page.locator("#share").fill("25")
    ask(page, shapes[0][1])
    assert shares == [None, 0.25]


def test_what_the_server_refuses_is_shown_in_its_words(page, shapes):
    for path, _ in shapes:
        give(page, path)
    ask(page, "Is there a circle?")
    give(page, shapes[0][0])
    page.locator("#text-input").fill("And now?")
    page.keyboard.press("Enter")
    page.locator(".error-message-text", has_text="4 images are given; this server takes 3").wait_for()


def test_an_answer_cannot_do_anything(page):
    """A model, or whoever made it, may write what it likes."""
    page.evaluate("""() => document.querySelector('deep-chat').addMessage({ role: 'ai', text:
        '<img src=x onerror="document.title=1"><script>document.title=2</script> ' +
        '![a](http://elsewhere.invalid/a.png) [b](javascript:document.title=3) **bold**' })""")
    said = page.locator(".ai-message-text")
    said.locator("strong", has_text="bold").wait_for()
    assert said.locator("script, [onerror]").count() == 0
    said.locator("a").click()
    page.wait_for_timeout(200)
    assert (page.title(), len(page.context.pages)) == ("easy-llava-2bit", 1)


def test_a_key_is_asked_for_and_stays_in_the_tab(browser, loaded):
    server = Server(*loaded, replace(LIMITS, api_key="sesame"))
    context = browser.new_context()
    page = context.new_page()
    try:
        page.goto(server.address)
        for key in ("wrong", "sesame"):
            page.locator("#key:focus").wait_for()
            page.keyboard.type(key)
            page.keyboard.press("Enter")
        page.locator("#text-input").wait_for()
        page.locator("#unlock").wait_for(state="hidden")
        ask(page, "What?")
        page.reload()
        page.locator("#text-input").wait_for()
        other = context.new_page()
        other.goto(server.address)
        other.locator("#key:focus").wait_for()
        assert context.cookies() == []
    finally:
        context.close()
        server.stop()


def test_a_long_answer_streams_and_is_stopped(browser, loaded, monkeypatch):
    step = JointBatch.step
    monkeypatch.setattr(JointBatch, "step", lambda batch: (time.sleep(0.1), step(batch)))
    server = Server(*loaded)
    context = browser.new_context()
    page = context.new_page()
    try:
        page.goto(server.address)
        page.locator("#text-input:focus").wait_for()
        assert "tokens/s" in ask(page, "What?")[1]
        page.locator("#clear").click()
        page.locator(".ai-message-text").wait_for(state="detached")
        page.locator("#text-input").fill("What?")
        page.keyboard.press("Enter")
        page.locator(".ai-message-text").wait_for()
        early = page.locator(".ai-message-text").inner_text()
        page.wait_for_timeout(500)
        later = page.locator(".ai-message-text").inner_text()
        assert len(later) > len(early)
        page.locator("#stop-icon").click()
        page.locator("#speed", has_text="stopped").wait_for()
        until(lambda: server.engine.under_way == 0)
    finally:
        context.close()
        server.stop()


def test_without_scripts(browser, answering):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(answering[0].address)
    assert page.locator("noscript p").is_visible()
    told = [one.inner_text() for one in page.locator("body > *:visible").all()]
    assert [text for text in told if text] == ["bivlm", page.locator("noscript p").inner_text()]
    context.close()
