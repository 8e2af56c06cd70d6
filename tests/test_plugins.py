"""What other packages offer: found by name, listed, and, where it cannot be used, an error for who asks and a
warning for who lists.
"""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

from bivlm import families, pruning, quantizers
from bivlm.errors import InputError
from bivlm.families import FAMILIES, Family, family_names, family_of, use
from bivlm.plugins import Table
from bivlm.pruning import PRUNERS, pruner_named, pruner_names
from bivlm.pruning.settings import parse_pruning
from bivlm.quantizers import QUANTIZERS, quantizer_named, quantizer_names

HALF = """
    from typing import ClassVar
    from pydantic import ConfigDict
    from pydantic.dataclasses import dataclass
    from bivlm.quantizers import RTN

    @dataclass(frozen=True, config=ConfigDict(extra="forbid"))
    class Half(RTN):
        name: ClassVar[str] = "half"
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a package with one module and one entry point where Python finds it."""
    for room in (quantizers, pruning, families):
        monkeypatch.setattr(room._TABLE, "_loaded", {})
    monkeypatch.syspath_prepend(tmp_path)

    def put(package, group, entry, content):
        module = package.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(dedent(content))
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[bivlm.{group}]\n{entry}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return put


def test_a_method_of_another_package_is_found_and_listed(install):
    install("half-method", "quantizers", "half = half_method:Half", HALF)
    assert quantizer_named("half").name == "half"
    assert quantizer_named("half") is quantizer_named("half")
    assert {"half", *QUANTIZERS} <= set(quantizer_names())
    assert quantizer_names() == sorted(quantizer_names())


def test_what_is_built_in_asks_nobody(monkeypatch):
    def refuse(**_):
        raise AssertionError("entry points were looked up")

    monkeypatch.setattr("bivlm.plugins.entry_points", refuse)
    assert all(quantizer_named(name) is kind for name, kind in QUANTIZERS.items())
    assert all(pruner_named(name) is kind for name, kind in PRUNERS.items())
    assert all(family_of(name) is family for name, family in FAMILIES.items())


def test_an_unknown_name_lists_what_there_is(install):
    install("half-method", "quantizers", "half = half_method:Half", HALF)
    with pytest.raises(InputError, match=r"there is no quantizer 'third'; there are arb, .*half.*trellis"):
        quantizer_named("third")
    with pytest.raises(InputError, match="there is no pruner 'third'; there are attention, "):
        pruner_named("third")


ABSTRACT = HALF.replace("RTN", "Quantizer")
BROKEN = {
    "raises": (
        "half = bad:Half",
        "raise RuntimeError('no luck\\nat all')",
        r"imported \(RuntimeError: no luck\)",
    ),
    "needs another": ("half = bad:Half", "import nowhere_to_be_found", "cannot be imported"),
    "lacks it": ("half = bad:Half", "x = 1", r"cannot be imported \(AttributeError"),
    "no class": ("half = bad:Half", "Half = 3", "is no subclass of bivlm.quantizers.base.Quantizer"),
    "another class": ("half = bad:Half", "class Half: name = 'half'", "is no subclass of"),
    "abstract": ("half = bad:Half", ABSTRACT, "lacks bits_bound, needs_data, paper_bits, quantize"),
    "plain class": (
        "half = bad:Half",
        "from bivlm.quantizers import RTN\nclass Half(RTN.__bases__[0]):\n    name = 'half'\n"
        + "    needs_data = quantize = bits_bound = paper_bits = None",
        "is no pydantic dataclass",
    ),
    "another name": ("half = bad:Half", HALF.replace('"half"', '"third"'), "has the name 'third'"),
}


@pytest.mark.parametrize(("entry", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_package_that_cannot_be_used_disturbs_nothing_else(install, caplog, entry, content, message):
    install("bad", "quantizers", entry, content)
    install("whole", "quantizers", "whole = whole:Half", HALF.replace('"half"', '"whole"'))
    with pytest.raises(InputError, match=f"the quantizer 'half' of the package bad 1.0.*{message}") as caught:
        quantizer_named("half")
    assert "\n" not in str(caught.value)
    assert not caplog.records
    names = quantizer_names()
    assert "half" not in names
    assert {"whole", *QUANTIZERS} <= set(names)
    assert "left out: the quantizer 'half' of the package bad 1.0" in caplog.text


def test_two_packages_with_one_name_are_named(install, caplog):
    install("one", "quantizers", "half = one:Half", HALF)
    install("two", "quantizers", "half = two:Half", HALF)
    with pytest.raises(
        InputError, match=r"the package (one|two) 1.0 and the package (one|two) 1.0: only one"
    ):
        quantizer_named("half")
    assert "half" not in quantizer_names()
    assert "uninstall the others" in caplog.text


def test_nobody_takes_the_place_of_a_built_in_method(install, caplog):
    install("other", "quantizers", "rtn = other:Half", HALF.replace('"half"', '"rtn"'))
    assert quantizer_named("rtn") is QUANTIZERS["rtn"]
    assert quantizer_names().count("rtn") == 1
    assert "the package other 1.0 offers the quantizer 'rtn', which bivlm has itself" in caplog.text


def test_a_pruner_of_another_package_is_used_by_its_name(install):
    content = HALF.replace("bivlm.quantizers import RTN", "bivlm.pruning.grid import GridPruner")
    install(
        "half-pruner", "pruners", "half = half_pruner:Half", content.replace("Half(RTN)", "Half(GridPruner)")
    )
    assert parse_pruning("half:keep=0.5").build().name == "half"
    assert "half" in pruner_names()


def test_a_family_of_another_package_is_found(install, caplog):
    content = """
        from dataclasses import replace
        from bivlm.families import FAMILIES
        ELSEWHERE = replace(FAMILIES["llava"], model_type="elsewhere")
        CALLED_OTHERWISE = FAMILIES["llava"]
        NONE = "llava"
    """
    install("elsewhere", "families", "elsewhere = elsewhere:ELSEWHERE", content)
    install("otherwise", "families", "otherwise = otherwise:CALLED_OTHERWISE", content)
    install("nothing", "families", "nothing = nothing:NONE", content)
    assert family_of("elsewhere").stacks == FAMILIES["llava"].stacks
    names = family_names()
    assert "elsewhere" in names
    with pytest.raises(InputError, match="is for 'llava', not for its entry point's name"):
        family_of("otherwise")
    with pytest.raises(InputError, match=r"is no bivlm\.families\.Family"):
        family_of("nothing")
    assert not {"otherwise", "nothing"} & set(names)
    assert caplog.text.count("left out") == 2


def test_a_family_can_be_declared_for_a_process(monkeypatch):
    monkeypatch.setattr(families, "USED", {})
    own = Family("own", FAMILIES["llava"].stacks, (), lambda config: None, "{image}{question}")
    with pytest.raises(InputError, match="'own' is not supported"):
        family_of("own")
    assert family_of("own", own) is own
    with pytest.raises(InputError, match="the model is a 'llava' and the family is for 'own'"):
        family_of("llava", own)
    use(own)
    assert family_of("own") is own
    assert "own" in family_names()
    with pytest.raises(InputError, match=r"'own' is no bivlm\.families\.Family"):
        use("own")


def test_a_table_knows_its_own_without_looking():
    assert Table("bivlm.nothing", "thing", {"a": 1}, lambda name, loaded: "").names() == ["a"]


def test_importing_bivlm_imports_no_pytest():
    rooms = "bivlm, bivlm.quantizers, bivlm.families, bivlm.pruning.apply, bivlm.plugins"
    code = f"import {rooms}, sys; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
