"""A training is taken up again in the memory that it takes."""

import torch
from training import Peak

from cond_distill.training.checkpoint import read_checkpoint, write_checkpoint
from cond_distill.training.distributed import load_module, load_optimizer


def trained(device: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    net = torch.nn.Linear(200, 100, bias=False, device=device)
    return net, torch.optim.AdamW(net.parameters())


def test_resumed(tmp_path):
    """Checkpoints are read on the CPU; the device gets both moments, and nothing twice.

    `meta` stands for a device other than the CPU.
    """
    net, optimizer = trained("cpu")
    net(torch.ones(1, 200)).sum().backward()
    optimizer.step()
    state = dict(net=net.state_dict(), opt=optimizer.state_dict())
    saved = read_checkpoint(write_checkpoint(tmp_path, 1, state))
    on_meta, moments = trained("meta")
    with Peak("meta") as peak:
        load_module(on_meta, saved["net"])
        load_optimizer(moments, saved["opt"])
    assert peak.most == 2 * net.weight.nbytes
    assert {v.device.type for v in moments.state[on_meta.weight].values() if v.ndim} == {"meta"}
