"""What studies have in common: settings that are checked, and events with a label."""

from __future__ import annotations

import pytest

from bivlm.errors import InputError
from bivlm.studies.study import Labelled, RunSettings
from told import Told


def test_a_batch_of_no_questions_is_refused():
    with pytest.raises(InputError, match="the batch size is 0; give 1 or more"):
        RunSettings(batch_size=0)


def test_only_what_decides_the_numbers_is_in_the_fingerprint():
    settings = RunSettings(command="bivlm compare", events=Told())
    assert settings.fingerprint() == RunSettings().fingerprint()
    assert settings.fingerprint() != RunSettings(batch_size=1).fingerprint()
    assert settings.fingerprint() != RunSettings(max_new_tokens=1).fingerprint()


def test_a_label_stands_before_what_is_in_progress():
    told = Told()
    events = Labelled(told, "trellis-2")
    events.progress("questions", 1, 2)
    events.say("done")
    events.unit("a report", 1, 3)
    assert (told.steps, told.lines, told.units) == (
        [("trellis-2: questions", 1, 2)],
        ["done"],
        [("a report", 1, 3)],
    )
