import numpy as np
import pytest
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.core.prompts import Prompts, draw_prompts, grow, instances_in, policy_from
from gtvbench.bench.core.structures import Structure

T, N = Structure("GTV-T", 1), Structure("GTV-N", 2)
SPACING = (4.0, 3.0, 2.0)


def label_map() -> np.ndarray:
    label = np.zeros((5, 40, 50), np.uint8)
    label[1, 10:20, 10:20] = 1
    label[1, 20:25, 10:20] = 2  # touches T
    label[2, 0:4, 46:50] = 2  # in the corner of the image
    label[2, 30, 30] = 2  # one voxel
    label[3, 5, 5] = label[3, 6, 6] = 1  # 8-connected: one instance
    return label


def draw(
    label: np.ndarray, policy: str = "random-margin(0, 20)", case: str = "a", seed: int = 1, **kw: float
) -> Prompts:
    return draw_prompts(case, label, SPACING, (T, N), policy_from(policy), seed, **kw)


def test_instances_are_8_connected_components_of_one_structure_in_one_slice() -> None:
    prompts = draw(label_map(), "tight")
    found = [(p.slice, p.structure, p.instance, p.box) for p in prompts.boxes]
    assert found == [
        (1, 1, 1, (10, 10, 20, 20)),
        (1, 2, 1, (20, 10, 25, 20)),
        (2, 2, 1, (0, 46, 4, 50)),
        (2, 2, 2, (30, 30, 31, 31)),
        (3, 1, 1, (5, 5, 7, 7)),
    ]


def test_a_fixed_margin_is_in_millimetres_on_every_axis() -> None:
    prompts = draw(label_map(), "fixed-margin(6)")
    assert prompts.boxes[0].box == (10 - 2, 10 - 3, 20 + 2, 20 + 3)


def test_boxes_are_clipped_to_the_image() -> None:
    assert grow((0, 46, 4, 50), (20, 20, 20, 20), (3, 2), (40, 50)) == (0, 36, 11, 50)


def test_prompts_do_not_depend_on_other_cases_or_their_order() -> None:
    label = label_map()
    once = draw(label)
    only_last = label.copy()
    only_last[:3] = 0
    assert draw(only_last).boxes == once.boxes[-1:]
    assert draw(label, case="b").boxes != once.boxes
    assert draw(label, seed=2).boxes != once.boxes
    assert draw(label).digest == once.digest


def test_prompts_survive_their_table() -> None:
    prompts = draw(label_map())
    assert Prompts.from_rows("a", prompts.rows()) == prompts


def test_small_instances_get_no_prompt_only_where_that_is_configured() -> None:
    kept = draw(label_map(), minimum_area_mm2=6.1).boxes
    assert [p.area for p in kept] == [100, 50, 16, 2]


@fuzzed(60)
@given(st.integers(0, 2**32 - 1))
def test_every_random_box_holds_its_instance_and_stays_within_the_margin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = (rng.random((2, 24, 24)) > 0.8).astype(np.uint8)
    for prompt in draw_prompts("x", label, SPACING, (T,), policy_from("random-margin(0, 20)"), seed).boxes:
        same = {i.number: i for i in instances_in(label[prompt.slice], prompt.slice, (T,))}[prompt.instance]
        y0, x0, y1, x1 = same.tight
        assert 0 <= prompt.y0 <= y0 and y1 <= prompt.y1 <= 24
        assert 0 <= prompt.x0 <= x0 and x1 <= prompt.x1 <= 24
        assert (y0 - prompt.y0) * 3.0 <= 20 + 1.5 and (x0 - prompt.x0) * 2.0 <= 20 + 1.0


@pytest.mark.parametrize(
    "text", ["random-margin(20, 0)", "fixed-margin", "loose", "tight(3)", "random-margin(a, b)", "x(1"]
)
def test_an_unreadable_policy_is_refused(text: str) -> None:
    with pytest.raises(StudyError):
        policy_from(text)
