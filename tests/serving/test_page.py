"""The page as it is served: its files, its headers, without a key, below a prefix, or not at all."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from urllib.parse import urljoin

import pytest
from starlette.testclient import TestClient

from bivlm.errors import InputError
from bivlm.serving.api import application
from bivlm.serving.engine import Engine
from bivlm.serving.page import PAGE_FILES, WEB
from bivlm.serving.serve import site_of
from served import LIMITS, SITE

OWN = [name for name, _ in PAGE_FILES.values() if not name.startswith("deep-chat/")]


@pytest.fixture(scope="module")
def client_of(loaded):
    """Clients of applications around an engine, which is asked nothing."""
    engine = Engine(*loaded)
    engine.start()
    yield lambda site=SITE, limits=LIMITS: TestClient(application(engine, site, limits))
    engine.stop()


@pytest.fixture
def client(client_of):
    return client_of()


def test_the_page_and_its_files_are_served(client):
    for path, (name, kind) in PAGE_FILES.items():
        found = client.get(path)
        assert (found.status_code, found.content) == (200, (WEB / name).read_bytes())
        assert found.headers["Content-Type"].partition(";")[0] == kind
        assert found.headers["Cache-Control"] == "no-cache"
        assert (client.head(path).status_code, client.post(path, content=b"").status_code) == (200, 405)


@pytest.mark.parametrize("path", ["/", "/v1/models", "/nowhere"])
def test_nothing_from_elsewhere_is_allowed(client, path):
    headers = client.get(path).headers
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
        assert urljoin(f"http://host{base}", link)[11:] in PAGE_FILES


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


def test_what_the_page_is_told_of_the_model(client):
    [model] = client.get("/v1/models").json()["data"]
    assert (model["id"], model["weight_bytes"], model["true_bits"]) == ("tiny", 1_500_000, 2.03)
    assert (model["visual_tokens"], model["pruning"].partition(":")[0]) == (1.0, "attention")
    assert (model["max_images"], model["max_tokens"]) == (LIMITS.most_images, LIMITS.most_tokens)


@pytest.mark.parametrize("prefix", ["", "/vision"], ids=["stripped by the proxy", "kept by the proxy"])
def test_below_a_prefix_the_page_is_open_and_the_model_is_not(client_of, prefix):
    client = client_of(replace(SITE, root_path="/vision"), replace(LIMITS, api_key="sesame"))
    for path in (*PAGE_FILES, "/health"):
        assert client.get(prefix + path).status_code == 200
    for path in ("/v1/models", "/page/nowhere.js", "/health/", "/vision/vision/health", "/visionhealth"):
        assert client.get(prefix + path).status_code == 401, path
    assert client.get("/vision").url == "http://testserver/vision/"
    found = client.get(f"{prefix}/v1/models", headers={"Authorization": "Bearer sesame"})
    assert (found.status_code, found.json()["data"][0]["id"]) == (200, "tiny")


def test_a_server_without_the_page(client_of):
    client = client_of(replace(SITE, page=False))
    assert {client.get(path).status_code for path in PAGE_FILES} == {404}
    assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize("prefix", ["vision", "/vision/", "/"])
def test_a_prefix_that_is_none(prefix):
    with pytest.raises(InputError, match="write it like /vision"):
        site_of("anywhere", root_path=prefix)
