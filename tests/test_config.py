"""Every value of a configuration is checked when it is made, and the error names the field."""

import math
from dataclasses import asdict, fields, replace
from typing import get_type_hints

import pytest

from cond_distill.config import ReproduceConfig, TeachConfig, TrainConfig
from cond_distill.ranges import RANGES

WRONG = dict(
    batch=0,
    steps=1.5,
    lr=math.nan,
    max_grad_norm=-1.0,
    guidance=math.inf,
    caption_dropout=5,
    target_decay=2.0,
    ramp_start=0.9,  # after its end
    rounds=0,
    z_s="truth",
    dtype="float8",
    per_sample="yes",
    seed=-1,
    max_crop_scale=0.5,
    out=7,
    max_look_ahead=True,
)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values(name):
    with pytest.raises((ValueError, TypeError), match=f"^{name} is"):
        TrainConfig(**{name: WRONG[name]})


@pytest.mark.parametrize("wrong", [dict(batch=0), dict(lr=math.nan), dict(size=65), dict(steps=-1)])
def test_teacher_config(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is"):
        TeachConfig(images="pictures", **wrong)


def test_reproduce_config():
    with pytest.raises(ValueError, match="^seeds is"):
        ReproduceConfig(seeds=(0, -1))
    with pytest.raises(TypeError, match="^seeds is 3; expected a tuple or list of values"):
        ReproduceConfig(seeds=3)


@pytest.mark.parametrize("kind", [TrainConfig, TeachConfig, ReproduceConfig])
def test_every_number_has_a_range(kind):
    numbers = [name for name, hint in get_type_hints(kind).items() if hint in (int, float)]
    assert not set(numbers) - RANGES.keys()


def test_groups():
    """The five groups together are the whole configuration, flat as it is saved."""
    groups = TrainConfig.__bases__[::-1]
    names = [f.name for group in groups for f in fields(group)]
    assert names == list(asdict(TrainConfig())) and len(set(names)) == len(names)
    assert all(isinstance(TrainConfig(), group) for group in groups)
    assert replace(TrainConfig(), lr=1).lr == 1  # a whole number where a number is expected
