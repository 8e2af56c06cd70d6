"""Several processes give the bytes of one: every file of the folder."""

import os
import signal
from dataclasses import replace

import pytest
import torch
import transformers

from bivlm.calibration import moments
from bivlm.crew import ALONE
from bivlm.crew.joining import join
from bivlm.errors import InputError
from bivlm.job.plan import LinearPlan
from bivlm.job.run import quantize
from bivlm.job.sharing import owners_of
from bivlm.quantizers import RTN
from crews import in_crew, in_processes
from reliability.jobs import content
from tiny import tiny_checkpoint, tiny_samples
from tiny.language import tiny_language_model
from told import Told

PLAIN = "trellis-2:modality_weight=tokens,gradient_power=0"
KILLED = 9


def few(count, mixed=False):
    """Samples; if mixed, every third has no image."""
    samples = tiny_samples(count)
    return [
        replace(one, image=None, places=()) if mixed and place % 3 == 1 else one
        for place, one in enumerate(samples)
    ]


@pytest.fixture
def narrow_is_wide(monkeypatch):
    """Second moments of tiny models are summed in blocks of rows, as wide ones are."""
    monkeypatch.setattr(moments, "BLOCK", 32)
    monkeypatch.setattr(moments, "WIDE", 64)


def packed_by(size, source, out, samples, **more):
    """The folder that so many processes make."""
    transformers.logging.set_verbosity_error()
    in_crew(size, lambda crew: quantize(source, out, data=samples, crew=crew, **more))
    return content(out)


def assert_same_bytes(tmp_path, sizes, kind, samples, **more):
    source = tiny_checkpoint(kind, tmp_path / "source", torch.bfloat16)
    expected = packed_by(1, source, tmp_path / "1", samples, **more)
    assert expected
    for size in sizes:
        assert packed_by(size, source, tmp_path / str(size), samples, **more) == expected, size


def test_two_processes_give_the_bytes_of_one(tmp_path, narrow_is_wide):
    assert_same_bytes(tmp_path, [2], "llava", few(3), recipe=PLAIN, parts=["language"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sizes", "count", "mixed", "settings"),
    [
        ("qwen2_vl", [3, 4], 5, True, {"recipe": "gptq-2"}),
        ("llava", [2, 4], 7, True, {"recipe": f"{PLAIN},propagation=0.5,tuning=2"}),
        ("llava", [5], 4, False, {"recipe": "gptq-2", "embeddings": 4}),
        ("mllama", [3], 5, True, {"recipe": "trellis-2"}),
        ("llava", [2, 4], 17, True, {"recipe": "trellis-2", "parts": ["language"]}),
        ("llava", [3], 5, False, {"recipe": "squeezellm-2"}),
        ("llava", [2], 5, False, {"recipe": "awq-2"}),
        ("llava", [3], 0, False, {"recipe": "rtn-2"}),
        ("llava", [3], 4, True, {"recipe": PLAIN, "bits": 2.0, "parts": ["projector"]}),
        ("llava", [2], 8, False, {"recipe": "trellis-2", "effort": "max", "parts": ["projector"]}),
    ],
)
def test_any_number_of_processes_gives_the_bytes_of_one(
    kind, sizes, count, mixed, settings, tmp_path, narrow_is_wide
):
    assert_same_bytes(tmp_path, sizes, kind, few(count, mixed), **settings)


@pytest.mark.slow
def test_a_budget_by_prediction(tmp_path, narrow_is_wide):
    recipe = tmp_path / "predicted.toml"
    recipe.write_text(
        'name = "predicted"\nbudget = 2.0\nbudget_from = "gradients"\n\n[[rule]]\nquantizer = "trellis"\n'
    )
    assert_same_bytes(tmp_path, [3], "llava", few(4), recipe=recipe, parts=["projector"])


@pytest.mark.slow
def test_wide_inputs_as_they_are(tmp_path):
    """The real blocks of rows, on a language model whose inputs are wide."""
    source = tiny_language_model("llama", tmp_path / "source", torch.bfloat16, layers=1)
    config = transformers.AutoConfig.from_pretrained(source)
    config.hidden_size, config.intermediate_size, config.head_dim = 1536, 1600, 384
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(source)
    samples = [replace(one, image=None, places=()) for one in few(4)]
    expected = packed_by(1, source, tmp_path / "1", samples, recipe="gptq-2")
    for size in (2, 3):
        assert packed_by(size, source, tmp_path / str(size), samples, recipe="gptq-2") == expected


def dying_at(rank, moment, source, out, samples, **more):
    """A job of two processes of which one is killed when it has come to so many exchanges."""

    def job(own):
        with join() as crew:
            if own == rank:
                words, left = crew._words, [moment]

                def counted(*args):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return words(*args)

                crew._words = counted
            quantize(source, out, data=samples, crew=crew, **more)

    return in_processes(2, job)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("moment", [2, 8, 17])
def test_a_rank_that_is_killed(rank, moment, tmp_path):
    """The other names it and ends; the same command continues with one process, with two, with three."""
    source, samples = tiny_checkpoint("llava", tmp_path / "source", torch.bfloat16), few(4)
    settings = {"recipe": PLAIN, "parts": ["language"]}
    expected = packed_by(1, source, tmp_path / "expected", samples, **settings)
    ended = dying_at(rank, moment, source, tmp_path / "out", samples, **settings)
    assert ended[rank].code == -KILLED
    assert ended[1 - rank].code not in (0, -KILLED)
    assert f"rank {rank} ended (killed" in ended[1 - rank].said
    size = 1 + (moment + rank) % 3
    assert packed_by(size, source, tmp_path / "out", samples, **settings) == expected


class _Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 2), (3, 2)])
def test_another_number_of_processes_continues(before, after, tmp_path):
    source, samples = tiny_checkpoint("llava", tmp_path / "source", torch.bfloat16), few(4)
    settings = {"recipe": f"{PLAIN},propagation=0.5", "parts": ["language"]}
    expected = packed_by(1, source, tmp_path / "expected", samples, **settings)

    def stop(report):
        raise _Interrupted

    def job(_):
        with join() as crew:
            try:
                quantize(source, tmp_path / "out", data=samples, crew=crew, events=Told(stop), **settings)
            except _Interrupted as error:
                crew.tell(error)
                return 5
            except RuntimeError:  # an error of this file's own cannot be unpickled elsewhere
                return 5
        return 0

    assert {one.code for one in in_processes(before, job)} == {5}
    begun = content(tmp_path / "out")
    assert "config.json" not in begun
    assert any(name.endswith(".safetensors") for name in begun)
    assert packed_by(after, source, tmp_path / "out", samples, **settings) == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("data", "the processes differ in calibration data", marks=pytest.mark.slow),
        ("recipe", r"the processes differ in recipe"),
        pytest.param("model", "the processes differ in the model's files", marks=pytest.mark.slow),
        pytest.param("threads", r"differ in threads: 1 \(rank 0\); 2 \(rank 1\)", marks=pytest.mark.slow),
    ],
)
def test_processes_that_differ_are_refused_before_any_work(name, said, tmp_path):
    source = tiny_checkpoint("llava", tmp_path / "source", torch.bfloat16)
    other = source
    if name == "model":
        other = tiny_checkpoint("llava", tmp_path / "other", torch.float32)

    def job(rank):
        mine = {"recipe": PLAIN, "data": few(2)}
        if rank and name == "data":
            mine["data"] = few(3)
        if rank and name == "recipe":
            mine["recipe"] = "gptq-2"
        if rank and name == "threads":
            torch.set_num_threads(2)
        with pytest.raises(InputError, match=said), join() as crew:
            quantize(other if rank else source, tmp_path / "out", crew=crew, **mine)

    assert [one.code for one in in_processes(2, job)] == [0, 0]
    assert not (tmp_path / "out").exists()


def test_linears_with_the_same_statistics_stay_together():
    def linear(name, rows, columns):
        return LinearPlan(name, "language", (rows, columns), RTN(bits=2))

    linears = [linear("q", 8, 8), linear("k", 4, 8), linear("up", 16, 8), linear("down", 8, 16)]

    class Two(type(ALONE)):
        size = 2

    owners = owners_of(linears, Two(), {"q": "q", "k": "q", "up": "up", "down": None}.get)
    assert owners["q"] == owners["k"] == owners["up"] != owners["down"]
    assert set(owners_of(linears, ALONE).values()) == {0}
