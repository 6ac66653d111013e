import pytest

from rlrr.words import counted


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, ["image"], "0 images"),
        (1, ["image"], "1 image"),
        (2000, ["image"], "2,000 images"),
        (1, ["class", "classes"], "1 class"),
        (3, ["class", "classes"], "3 classes"),
    ],
)
def test_a_noun_agrees_with_its_number(number, noun, said):
    assert counted(number, *noun) == said
