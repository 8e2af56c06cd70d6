"""One server that most tests ask."""

from __future__ import annotations

import pytest
import torch

import bivlm
from pictures import noise
from served import Server, data_uri
from tiny import tiny_checkpoint


@pytest.fixture(scope="package")
def loaded(tmp_path_factory):
    """A model that answers at length, and its processor."""
    return bivlm.load(tiny_checkpoint("llava", tmp_path_factory.mktemp("serving") / "model", torch.float32))


@pytest.fixture(scope="package")
def server(loaded):
    server = Server(*loaded)
    yield server
    server.stop()


@pytest.fixture
def picture():
    """A picture, and the part of a message that holds it."""
    image = noise(40, 30)
    return image, {"type": "image_url", "image_url": {"url": data_uri(image)}}
