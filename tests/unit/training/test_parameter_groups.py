"""Groups of parameters by patterns."""

from __future__ import annotations

import pytest

from vggdist.config.errors import RequestError
from vggdist.training.parameter_groups import group_factors

NAMES = [
    *("vgg_stage1_conv1_weight", "vgg_stage1_conv1_norm_gamma", "vgg_stage1_conv1_norm_beta"),
    *("vgg_hidden1_weight", "vgg_hidden1_bias", "vgg_output_weight", "vgg_output_bias"),
]


def test_the_first_pattern_that_matches_the_name_without_prefix_applies() -> None:
    groups = (("*_beta", 64.0, 0.0), ("output_bias", 2.0, 1.0), ("output_*", 0.1, 0.5), ("[hs]*_weight", 3.0, 4.0))
    assert group_factors(groups, NAMES) == {
        "vgg_stage1_conv1_norm_beta": (64, 0),
        "vgg_output_bias": (2, 1),
        "vgg_output_weight": (0.1, 0.5),
        "vgg_stage1_conv1_weight": (3, 4),
        "vgg_hidden1_weight": (3, 4),
    }


def test_without_groups_no_parameter_is_in_one() -> None:
    assert group_factors((), NAMES) == {}


@pytest.mark.parametrize("pattern", ["*_alpha", "vgg_output_*", "weight", "Output_*"])
def test_a_pattern_without_match_is_refused_with_names_that_exist(pattern: str) -> None:
    with pytest.raises(RequestError) as refused:
        group_factors([("output_*", 1, 1), (pattern, 1, 1)], NAMES)
    assert str(refused.value) == (
        f"optimizer.groups: no trained parameter matches {pattern!r}; their names are stage1_conv1_weight, "
        "stage1_conv1_norm_gamma, stage1_conv1_norm_beta, ..., hidden1_bias, output_weight, output_bias"
    )


def test_a_pattern_after_a_wider_one_is_refused() -> None:
    with pytest.raises(RequestError, match=r"earlier patterns match every parameter that 'output_\*' matches; move it"):
        group_factors([("*", 1, 1), ("output_*", 0.1, 1)], NAMES)
