"""The options of the commands that run a model, and how loud a command is."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from bivlm.cli.running import chosen_running
from bivlm.cli.shared import loudness, note
from bivlm.errors import InputError
from bivlm.loading import device_named
from bivlm.studies.study import RunSettings


def test_the_options_are_the_arguments_of_load():
    assert chosen_running() == {
        "device": torch.device("cpu"),
        "dtype": None,
        "activations": "float",
        "expand": False,
    }
    chosen = chosen_running("cpu", "bfloat16", None, "int8", None, expanded=True)
    assert (chosen["dtype"], chosen["activations"], chosen["expand"]) == (torch.bfloat16, "int8", False)
    assert chosen_running(expanded=True)["expand"] is True
    assert chosen_running(expand=False, expanded=True)["expand"] is False


def test_threads_are_set_at_once():
    before = torch.get_num_threads()
    try:
        chosen_running(threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "bfloat"}, "there is no dtype 'bfloat'; did you mean bfloat16 or float32 or float16"),
        ({"activations": "int4"}, "--activations is 'int4'; give float or int8"),
        ({"activations": "int8", "expand": True}, "leave --expand out"),
        ({"device": "gpu"}, "there is no device 'gpu'; give cpu, cuda"),
    ],
)
def test_what_no_command_takes(given, message):
    with pytest.raises(InputError, match=message):
        chosen_running(**given)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there():
    with pytest.raises(InputError, match=r"the device cuda:3 cannot be used here \(.+\); give cpu"):
        device_named("cuda:3")


def test_eval_on_the_kernels(run, source, questions):
    words = ("eval", source, "--data", questions["DATA"], "--max-new-tokens", 2, "--json")
    code, text, _ = run(*words, "--packed", "--dtype", "float32")
    assert code == 0
    assert json.loads(text)["n"] == 1
    code, text, _ = run(*words, "--device", "gpu")
    assert code == 2
    assert "there is no device 'gpu'" in json.loads(text)["error"]["message"]


def test_quiet_says_nothing_but_errors(run, source, tmp_path):
    words = ("quantize", source, tmp_path / "out", "--preset", "rtn-2")
    code, text, error = run(*words, "--quiet", "--json")
    assert (code, error) == (0, "")
    assert json.loads(text)["recipe"] == "rtn-2"
    assert not note.quiet
    code, _, error = run("quantize", source, tmp_path / "no", "--preset", "rtn-9", "-q")
    assert code == 2
    assert "did you mean rtn-" in error


def test_verbose_shows_the_log(capsys):
    with loudness(False, True):
        logging.getLogger("bivlm.calibration").info("this was decided")
    assert "this was decided" in capsys.readouterr().err
    with loudness(False, False):
        logging.getLogger("bivlm.calibration").info("that was decided")
    assert "that was decided" not in capsys.readouterr().err
    with pytest.raises(InputError, match="contradict"), loudness(True, True):
        pass


@pytest.mark.parametrize("command", ["compare", "prune", "show"])
def test_studies_know_what_devices_there_are(run, source, questions, tmp_path, command):
    out = tmp_path / "out"
    words = {
        "compare": ("compare", source, "--data", questions["DATA"], "--out", out),
        "prune": ("prune", source, "--data", questions["DATA"], "--out", out),
        "show": ("show", source, "--question", "What?", "--out", tmp_path / "answers.png"),
    }[command]
    code, _, error = run(*words, "--device", "gpu")
    assert code == 2
    assert "there is no device 'gpu'" in error
    assert not out.exists()


def test_a_run_on_another_device_is_another_run():
    assert "device" not in RunSettings().fingerprint()
    assert RunSettings(device="cuda:1").fingerprint()["device"] == "cuda:1"
