"""The report in a real browser.
BIVLM_TEST_SCREENSHOTS names a folder for pictures of the pages.
"""

import os
from pathlib import Path

import pytest

from bivlm.studies.report.evaluated import read_evaluations
from bivlm.studies.report.page import write_report
from browsers import opened_browser
from evaluations import FULL, PARTS, QUESTIONS, write

pytestmark = pytest.mark.slow
WIDTHS = (1200, 390)  # a desktop, a phone
LONG = "a" * 150  # no place to break it

STICKING_OUT = """() => {
    const inside = element => element.closest('.wide, figure')  // these scroll
    const edge = document.documentElement.clientWidth
    return [...document.body.querySelectorAll('*')]
        .filter(element => !inside(element) && element.getBoundingClientRect().right > edge + 1)
        .map(element => element.outerHTML.slice(0, 100))
}"""
FOCUSED = """() => {
    const element = document.activeElement
    const shown = element.matches('input') ? element.nextElementSibling : element
    const told = element.getAttribute('href') || element.getAttribute('aria-label')
    return [element.id || told || element.tagName, getComputedStyle(shown).outlineStyle]
}"""


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as browser:
        yield browser


@pytest.fixture
def report(folders, tmp_path) -> Path:
    """A page of three models, one with names and answers that no line can break."""
    small = {"kl": 0.4, "kl_geometric": 0.2}
    answers = (LONG, "yes", LONG, "no")
    third = write(tmp_path / "third", f"model-{LONG}", answers, (0.0, 0.0, 0.0, 0.0), PARTS, **small)
    return write_report(read_evaluations([*folders, third]), tmp_path / "report")


@pytest.fixture(params=WIDTHS)
def opened(browser, report, request):
    """The page at one width, with what it asked for and what went wrong."""
    context = browser.new_context(viewport={"width": request.param, "height": 800})
    page = context.new_page()
    asked, wrong = [], []
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda one: wrong.append(one.text))
    page.on("pageerror", lambda one: wrong.append(str(one)))
    page.goto(report.as_uri())
    yield page, asked, wrong
    if folder := os.environ.get("BIVLM_TEST_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"report-{request.param}.png", full_page=True)
    context.close()


def test_nothing_is_fetched_and_nothing_goes_wrong(opened, report):
    page, asked, wrong = opened
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert wrong == []
    assert page.locator("figure svg").count() == 4


def test_nothing_overflows(opened):
    page, _, _ = opened
    wide, seen = page.evaluate("() => [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= seen
    assert page.evaluate(STICKING_OUT) == []


def test_the_keyboard_reaches_every_control(opened):
    page, _, _ = opened
    reached = {}
    for _ in range(40):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(FOCUSED)
        if name in reached:
            break
        reached[name] = outline
    links = [link.get_attribute("href") for link in page.locator("nav a").all()]
    figures = [figure.get_attribute("aria-label") for figure in page.locator("figure").all()]
    assert set(reached) - {"BODY"} == {*links, *figures, "Table of models", "pick-all"}
    assert {outline for name, outline in reached.items() if name != "BODY"} == {"solid"}


def test_arrow_keys_choose_which_questions_are_shown(opened):
    page, _, _ = opened
    questions = page.locator("ol.questions > li")
    assert questions.filter(visible=True).count() == len(QUESTIONS)
    page.locator("#pick-all").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "pick-lost"
    shown = questions.filter(visible=True)
    assert {one.get_attribute("class") for one in shown.all()} == {"lost"}
    assert 0 < shown.count() < len(FULL)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page(browser, report, scheme):
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(report.as_uri())
    colours = page.evaluate(
        "() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] }"
    )
    context.close()
    ink, paper = (sum(map(int, colour[4:-1].split(","))) / 3 for colour in colours)
    assert abs(ink - paper) > 180
    assert (ink < paper) == (scheme == "light")
