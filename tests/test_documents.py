"""What the documents show of the code is the code."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_example_in_methods_md_is_the_example_package() -> None:
    example = (ROOT / "tests" / "example_package" / "gtvbench_threshold" / "__init__.py").read_text()
    assert f"```python\n{example}```\n" in (ROOT / "docs" / "methods.md").read_text()
