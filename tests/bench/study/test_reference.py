"""docs/study-reference.md is written from the models: every key is there, with a meaning."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "docs" / "study_reference.py"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = spec_from_file_location("study_reference", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_models_say(reference: ModuleType) -> None:
    assert reference.PAGE.read_text() == reference.page(), "run: python docs/study_reference.py"


def test_a_field_without_a_meaning_is_an_error(reference: ModuleType) -> None:
    class Bare(reference.BaseModel):  # type: ignore[misc, name-defined]
        key: int = 0

    with pytest.raises(ValueError, match="the field 'key' has no docstring"):
        reference._section(Bare, {})


def test_types_are_told_in_words(reference: ModuleType) -> None:
    kinds = {
        tuple[float, float]: "pair of numbers",
        list[tuple[str, str]]: "list of pairs of texts",
        str | tuple[str, ...]: "text or list of texts",
        dict[int, str] | None: "mapping of whole numbers to texts",
        bool | None: "`true` or `false`",
    }
    assert {kind: reference._type(kind) for kind in kinds} == kinds


def test_the_page_is_made_without_torch() -> None:
    code = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r})['page'](); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
