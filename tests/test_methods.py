"""What a method ignores is refused, and what it trains is what `check` asks about."""

from dataclasses import fields

import pytest

from cond_distill.cli import explain_runtime_error
from cond_distill.config import MethodConfig, TrainConfig
from cond_distill.experiments.jobs import ABLATIONS, COMPARED, Job
from cond_distill.methods import catalogue
from cond_distill.methods.catalogue import make_method
from cond_distill.schedule import Schedule
from cond_distill.trainer import distill
from cond_distill.training.state import check_used

IGNORED = [
    dict(method="any_step", discriminator=0.05),
    dict(method="any_step", boundary=True),
    dict(method="any_step", data_distance="pixels"),
    dict(method="any_step", timesteps="all"),
    dict(method="any_step", delta=250),
    dict(method="finetune", max_look_ahead=200.0),
    dict(method="codi", kernel="midpoint"),
    dict(method="codi", guidance=3.0),
    dict(method="paper", snr_gamma=1.0),
    dict(method="consistency", boundary=True),
    dict(method="any_step", per_sample=False),
    dict(method="finetune", ramp_start=0.1),
    dict(method="progressive", ramp_end=0.9),
]
UNUSED = [
    dict(adaptor="fusion", rank=64),
    dict(adaptor="full", rank=8),
    dict(flip=False),
    dict(channel_shuffle=True),
    dict(max_crop_scale=2.0),
    dict(caption_column="text"),
    dict(images="pictures", task="colourise", captions="none"),
]


@pytest.mark.parametrize("settings", IGNORED, ids=str)
def test_a_setting_without_effect_is_refused(settings):
    name = next(k for k in settings if k != "method")
    with pytest.raises(ValueError, match=f"does not use {name}="):
        make_method(TrainConfig(**settings))


@pytest.mark.parametrize("settings", UNUSED, ids=str)
def test_a_setting_without_effect_on_adaptor_or_data_is_refused(settings):
    with pytest.raises(ValueError, match=f"does not use {[*settings][-1]}="):
        check_used(TrainConfig(**dict(adaptor="controlnet") | settings))


def test_settings_with_an_effect_are_taken():
    check_used(TrainConfig(adaptor="fusion", rank=0))
    check_used(TrainConfig(adaptor="lora", rank=4, captions="none"))
    check_used(TrainConfig(adaptor="concat", images="pictures", flip=False, caption_column="text"))
    for settings in (dict(discriminator=0.0), dict(snr_gamma=0.0), dict(jump_power=0.0)):
        make_method(TrainConfig(method="progressive", **settings))


def test_every_method_of_the_comparison_uses_its_settings():
    for method in COMPARED | ABLATIONS:
        for settings in Job(method).stages:
            make_method(TrainConfig(**settings))
            check_used(TrainConfig(**settings))


def test_timesteps_that_are_trained():
    schedule = Schedule.cosine()
    grid = make_method(TrainConfig(method="codi", delta=125)).timesteps(schedule)
    assert grid == schedule.timesteps(8)
    assert (
        len(make_method(TrainConfig(method="codi", timesteps="all")).timesteps(schedule))
        == schedule.T
    )
    assert len(make_method(TrainConfig(method="any_step")).timesteps(schedule)) == schedule.T


@pytest.mark.parametrize(
    "settings, steps",
    [
        (dict(delta=125), [1, 2, 4, 8]),
        (dict(delta=100), [1, 2, 5, 10]),
        (dict(delta=250), [1, 2, 4]),
        (dict(delta=50), [1, 2, 4, 5, 10, 20]),
        (dict(delta=100, timesteps="all"), [1, 2, 4, 8]),
        (dict(delta=100, method="progressive"), [1, 2, 5, 10]),
        (dict(method="any_step"), None),
        (dict(method="finetune"), None),
    ],
    ids=str,
)
def test_numbers_of_steps_that_a_student_is_made_for(settings, steps):
    """Those whose timesteps are all trained."""
    method = make_method(TrainConfig(**dict(method="codi") | settings))
    assert method.trained_steps(Schedule.cosine()) == steps
    if isinstance(steps, list):
        method.sampling_steps = (3,)  # a method of one's own may say it
        assert method.trained_steps(Schedule.cosine()) == [3]


def test_hops():
    schedule = Schedule.cosine()
    assert (
        make_method(TrainConfig(method="codi", max_look_ahead=400.0, delta=100)).hops(schedule) == 4
    )
    settings = dict(method="any_step", kernel="exponential", max_jump=800.0, delta=100)
    assert make_method(TrainConfig(**settings)).hops(schedule) == 8
    # a quarter of what is left at a time: 1000 · 0.75 ** 13 is below 25
    assert 12 < make_method(TrainConfig(method="any_step")).hops(schedule) < 13
    short = make_method(TrainConfig(method="any_step")).hops(Schedule.linear(100))
    assert 4 < short < 5  # 100 · 0.75 ** 5 is below 25


def test_only_a_full_memory_is_called_full():
    assert "--batch" in explain_runtime_error(
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    )
    with pytest.raises(RuntimeError, match="illegal"):
        explain_runtime_error(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_a_training_is_refused_when_it_is_called_not_when_it_is_iterated():
    with pytest.raises(ValueError, match="nonsense"):
        distill(TrainConfig(task="nonsense"), progress=False)


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_what_a_method_reads_are_settings(name):
    assert make_method(TrainConfig(method=name)).reads() <= {f.name for f in fields(MethodConfig)}


def test_an_ablation_takes_the_learning_rate_of_what_it_changes():
    """The two-stage and any-step ones have the last stage of their own method, as it has."""
    methods = {"any_step": "any-step", "consistency": "CM-II"}
    for name in ABLATIONS:
        last = Job(name).stages[-1]["method"]
        alone = "finetuned" if name == "ControlNet alone" else "PE-CoDi"
        assert Job(name).searched == methods.get(last, alone), name
        assert Job(name).searched in COMPARED
