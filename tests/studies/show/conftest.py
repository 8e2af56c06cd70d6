"""A packed model to ask."""

import pytest

import bivlm
from bivlm.zoo import embedded_model


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    return bivlm.quantize(embedded_model(), tmp_path_factory.mktemp("show") / "packed", recipe="rtn-2")
