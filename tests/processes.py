"""Trainings in processes of their own, one or several that train together.

They are forked from a process that has loaded the heavy libraries, which takes longer than a short
training. `test_launchers` starts processes as a user does.
"""

import multiprocessing
import os
import socket
import time
import traceback
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "cond_distill.trainer",
        "accelerate",
        "diffusers.models.autoencoders.autoencoder_kl",
        "diffusers.models.unets.unet_2d_condition",
        "diffusers.pipelines.pipeline_utils",
        "torch.distributed.fsdp",
        "transformers.models.clip.modeling_clip",
    ]
)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _train(runs: list, environment: dict[str, str], errors: Path):
    os.environ.update(environment)
    import torch

    from cond_distill.config import TrainConfig
    from cond_distill.trainer import distill

    torch.set_num_threads(1)
    try:
        for settings, stop in runs:
            for record in distill(TrainConfig(**settings), progress=False):
                if record.step == stop:
                    break
    except BaseException:
        errors.write_text(traceback.format_exc(), encoding="utf-8")
        raise


def launch(runs: list, count: int, folder: Path):
    """The same runs in `count` processes; each run is (settings, the step at which it is left)."""
    from torch.distributed import TCPStore

    # as torch's launcher does: this process holds the port at which the others meet
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if count > 1 else None
    started = []
    for rank in range(count):
        environment = dict(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
        if store:
            environment |= dict(
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(store.port),
                TORCHELASTIC_USE_AGENT_STORE="True",
                WORLD_SIZE=str(count),
                RANK=str(rank),
                LOCAL_RANK=str(rank),
            )
        errors = folder / f"errors_{rank}.txt"
        errors.unlink(missing_ok=True)
        process = FORKS.Process(target=_train, args=(runs, environment, errors))
        process.start()
        started.append((process, errors))
    until = time.monotonic() + 600
    # when one has failed, the others would wait for it
    while any(p.is_alive() for p, _ in started) and time.monotonic() < until:
        if any(p.exitcode for p, _ in started):
            break
        time.sleep(0.05)
    for process, _ in started:
        process.join(1)
        process.kill()
        process.join()
    said = "\n".join(e.read_text(encoding="utf-8")[-3000:] for _, e in started if e.exists())
    assert not any(p.exitcode for p, _ in started), said or [p.exitcode for p, _ in started]
