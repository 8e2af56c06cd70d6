"""The table of model types: a row says what went well, and why something did not."""

from __future__ import annotations

import pytest
import transformers

from family_configs import FITTED, SPECIAL
from family_table import Row, page, try_type

LONG = (
    "the structure of 'a' could not be found: a small copy of it does not run (KeyError: 'b'); a declaration"
    " of the family helps: docs/adding.md"
)


def test_the_page_says_what_works_and_why_not():
    rows = [
        Row("one", True, True, True, True, True, True, True, 0.912),
        Row("two", False, False, True, True, True, False, None, 0.5, experts=True),
        Row("three", False, True, reason=LONG),
        Row("four", False, True, True, True, False, reason="/tmp/x1/model: the shards lack | a"),
    ]
    text = page(rows, "a command")
    assert "builds: 4. Found: 3. Packed and loaded again, exactly: 2." in text
    assert "| one | yes | yes | yes | yes | yes | yes | 91% |  |" in text
    assert "| two |  | yes | yes | yes | no |  | 50%* | stacked experts stay |" in text
    assert "| three |  | no |  |  |  |  |  | a small copy of it does not run (KeyError: 'b') |" in text
    assert "| the saved model: the shards lack / a |" in text
    assert "    a command" in text.splitlines()


def test_configs_are_of_known_types_and_said_once():
    assert {*FITTED, *SPECIAL} <= {*transformers.CONFIG_MAPPING}
    assert not {*FITTED} & {*SPECIAL}


@pytest.mark.slow
def test_a_type_is_tried_in_a_process_of_its_own():
    row = try_type("qwen2_vl")
    assert (row.found, row.replayed, row.packed, row.pruned, row.tower) == (True,) * 5
    assert row.share is not None
    assert 0.9 < row.share < 1
    assert try_type("fast_vlm").reason
