"""The page as it is served: its files, its headers, without a key, below a prefix, or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from bivlm.errors import InputError
from bivlm.serving.page import PAGE_FILES, WEB
from bivlm.serving.serve import site_of
from served import LIMITS, SITE, Server

OWN = [name for name, _ in PAGE_FILES.values() if not name.startswith("deep-chat/")]


def get(address, key=None):
    """Status, headers and body of an answer."""
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


@pytest.fixture(scope="module")
def below(loaded):
    """A server below a prefix that asks for a key."""
    server = Server(*loaded, replace(LIMITS, api_key="sesame"), replace(SITE, root_path="/vision"))
    yield server
    server.stop()


def test_the_page_and_its_files_are_served(server):
    for path, (name, kind) in PAGE_FILES.items():
        status, headers, body = get(server.address + path)
        assert (status, body) == (200, (WEB / name).read_bytes())
        assert headers.get_content_type() == kind
        assert headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", ["/", "/v1/models", "/nowhere"])
def test_nothing_from_elsewhere_is_allowed(server, path):
    headers = get(server.address + path)[1]
    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert policy.pop("img-src") == "'self' data: blob:", "pictures that were dropped into it"
    assert set(policy.values()) == {"'none'", "'self'"}
    assert {"default-src", "script-src", "style-src", "connect-src", "frame-ancestors"} <= set(policy)
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")


@pytest.mark.parametrize("name", OWN)
def test_its_links_are_relative_and_lead_to_what_is_served(name):
    text = (WEB / name).read_text()
    assert not re.search(r"https?:|//\w|style=|onclick=", re.sub(r"// .*", "", text))
    links = re.findall(r"(?:href|src)=\"(?!data:)([^\"]+)\"|(?:from|import) \"([^\"]+)\"", text)
    base = "/page/x" if name.endswith(".js") else "/"
    for link in (first or second for first, second in links):
        assert urllib.request.urljoin(f"http://host{base}", link)[11:] in PAGE_FILES


def test_without_scripts_one_sentence_says_what_to_do():
    [told] = re.findall(r"<noscript><p>(.*?)</p></noscript>", (WEB / "page.html").read_text())
    assert "allow them" in told
    assert told.count(". ") == 0


def test_the_vendored_component_is_as_it_was_published():
    folder = WEB / "deep-chat"
    told = (folder / "README.md").read_text()
    assert hashlib.sha256((folder / "deepChat.bundle.js").read_bytes()).hexdigest() in told
    for licence in re.findall(r"LICENSE[\w-]*", told):
        assert "Permission is hereby granted" in (folder / licence).read_text()


def test_what_the_page_is_told_of_the_model(server):
    [model] = json.loads(get(f"{server.address}/v1/models")[2])["data"]
    assert (model["id"], model["weight_bytes"], model["true_bits"]) == ("tiny", 1_500_000, 2.03)
    assert (model["visual_tokens"], model["pruning"].partition(":")[0]) == (1.0, "attention")
    assert (model["max_images"], model["max_tokens"]) == (LIMITS.most_images, LIMITS.most_tokens)


@pytest.mark.parametrize("prefix", ["", "/vision"], ids=["stripped by the proxy", "kept by the proxy"])
def test_below_a_prefix_the_page_is_open_and_the_model_is_not(below, prefix):
    for path in PAGE_FILES:
        assert get(below.address + prefix + path)[0] == 200
    assert get(f"{below.address}{prefix}/health")[0] == 200
    for path in ("/v1/models", "/page/nowhere.js", "/page/../v1/models", "//v1/models", "/health/../v1/models"):
        assert get(below.address + prefix + path)[0] == 401, path
    assert get(f"{below.address}/vision")[2] == (WEB / "page.html").read_bytes(), "led to /vision/"
    status, _, body = get(f"{below.address}{prefix}/v1/models", "sesame")
    assert (status, json.loads(body)["data"][0]["id"]) == (200, "tiny")


def test_a_server_without_the_page(loaded):
    server = Server(*loaded, site=replace(SITE, page=False))
    try:
        assert {get(server.address + path)[0] for path in PAGE_FILES} == {404}
        assert get(f"{server.address}/v1/models")[0] == 200
    finally:
        server.stop()


@pytest.mark.parametrize("prefix", ["vision", "/vision/", "/"])
def test_a_prefix_that_is_none(prefix):
    with pytest.raises(InputError, match="write it like /vision"):
        site_of("anywhere", root_path=prefix)
