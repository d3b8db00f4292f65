"""Every constant of the optimiser is a setting; without one, nothing has changed."""

import pytest
import torch

from cond_distill.config import TrainConfig
from cond_distill.training.state import learning_rate, make_optimizer


def earlier(step: int, steps: int) -> float:
    """The learning rate when its constants stood in the code."""
    return min(1.0, (step + 1) / 50, 0.05 + 0.95 * max(0.0, 1 - step / steps) / 0.25)


@pytest.mark.parametrize("steps", [1, 20, 700, 5001])
def test_defaults(steps):
    cfg = TrainConfig(steps=steps)
    rates = [learning_rate(cfg, step) for step in range(steps + 1)]
    assert rates == [earlier(step, steps) for step in range(steps + 1)]
    (group,) = make_optimizer(cfg, [torch.nn.Parameter(torch.ones(1))]).param_groups
    assert (group["betas"], group["weight_decay"], group["lr"]) == ((0.9, 0.99), 1e-3, 1e-3)


def test_settings():
    cfg = TrainConfig(
        steps=100, warmup_steps=0, decay_share=0.0, beta1=0.5, beta2=0.999, weight_decay=0.0
    )
    assert {learning_rate(cfg, step) for step in range(100)} == {1.0}
    (group,) = make_optimizer(cfg, [torch.nn.Parameter(torch.ones(1))]).param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.5, 0.999), 0.0)
    cfg = TrainConfig(steps=100, warmup_steps=10, decay_share=0.5, final_lr=0.2)
    rates = [learning_rate(cfg, step) for step in (0, 9, 50, 75, 100)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.6, 0.2])


@pytest.mark.parametrize("wrong", [dict(beta2=1.0), dict(warmup_steps=-1), dict(final_lr=2.0)])
def test_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**wrong)
