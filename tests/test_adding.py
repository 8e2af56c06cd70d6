"""docs/adding.md shows a whole method: the one of the example package."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_method_in_the_document_is_that_of_the_example():
    code = (ROOT / "examples/outside_method/src/bivlm_ternary/__init__.py").read_text(encoding="utf-8")
    assert f"```python\n{code}```" in (ROOT / "docs/adding.md").read_text(encoding="utf-8")
