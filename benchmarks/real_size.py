"""Models of real size with random weights: memory, training and drawing beside their plan."""

import gc
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from bench import training
from measure import CUDA, DEVICE, memory, timed

from cond_distill.adaptors.catalogue import make_adaptor
from cond_distill.config import TrainConfig
from cond_distill.plan import plan, shapes_only
from cond_distill.sampler import draw_images
from cond_distill.student import Student
from cond_distill.teacher import Teacher
from cond_distill.trainer import train_step
from cond_distill.training.state import new_run


class RealSize(Teacher):
    """Stable Diffusion's shapes with random weights; captions are noise."""

    def embed(self, captions):
        return torch.randn(
            len(captions),
            self.words,
            self.backbone.config.cross_attention_dim,
            generator=torch.Generator().manual_seed(0),
        ).to(self.device, self.backbone.dtype)

    def text_inputs(self, text):
        extra = {}
        if (c := self.backbone.config).addition_embed_type == "text_time":
            extra = dict(
                added_cond_kwargs=dict(
                    text_embeds=text.new_zeros(
                        len(text),
                        c.projection_class_embeddings_input_dim - 6 * c.addition_time_embed_dim,
                    ),
                    time_ids=text.new_zeros(len(text), 6),
                )
            )
        return dict(encoder_hidden_states=text, **extra)


def real_size(name, dtype=torch.bfloat16):
    teacher = shapes_only(name, DEVICE)
    teacher.__class__ = RealSize
    torch.nn.Module.to(teacher.backbone, dtype, memory_format=torch.channels_last)
    teacher.text_encoder.to(dtype)
    torch.cuda.empty_cache()
    return teacher


def made_up(teacher, n):
    """Data of the right shapes."""
    r = np.random.default_rng(0)
    side = teacher.image_size
    return dict(
        x=r.standard_normal((n, *teacher.latent_shape), np.float32),
        cond=r.integers(0, 255, (n, 1, side, side), np.uint8),
        text=r.standard_normal(
            (n, teacher.words, teacher.backbone.config.cross_attention_dim), np.float32
        ).astype(np.float16),
    )


SIZES = (
    ("sd15", "controlnet", 4, False),
    ("sd15", "controlnet", 16, False),
    ("sd15", "controlnet", 16, True),
    ("sd15", "t2i", 8, False),
    ("sd15", "t2i", 32, True),
    ("sdxl", "t2i", 1, False),
    ("sdxl", "t2i", 4, True),
    ("sdxl", "controlnet", 2, True),
)
SMALL = ("shipped", "controlnet", 4, False)  # without a GPU


def made_teacher(name):
    """A model of real size, after the one before has left the memory."""
    gc.collect()
    torch.cuda.empty_cache()
    return real_size(name)


def size_row(teacher, data, p, batch, settings):
    """A few training steps, measured, beside the plan `p`."""
    cfg = TrainConfig(batch=batch, mixed_precision="bf16", dtype="bfloat16", steps=100, **settings)
    run = new_run(replace(cfg, ramp_start=0.0, ramp_end=0.0, grid_every=0), teacher)
    memory(True)
    timed(partial(train_step, run, data), 2)  # the first ones are slower
    seconds = min(timed(partial(train_step, run, data), 4))
    return dict(
        trained=p.trained,
        planned=round(p.memory, 2),
        planned_without_reserve=round(p.teacher + p.adaptor + p.activations, 2),
        **memory(),
        seconds=round(seconds, 4),
        tflop=round(p.operations / 1e12, 2),
        tflops=round(p.operations / 1e12 / seconds, 1),
        share_of_h100=round(p.seconds("H100", 1.0) / seconds, 3),
    )


def sizes(args, log):
    """Peak memory and time of training steps beside what `plan` said."""
    rows, at, teacher, data = [], None, None, None
    chosen = [SIZES[k] for k in args.configurations or range(len(SIZES))]
    for name, adaptor, batch, checkpointing in chosen if CUDA else [SMALL]:
        settings = dict(adaptor=adaptor, checkpointing=checkpointing)
        row = dict(model=name, adaptor=adaptor, batch=batch, checkpointing=checkpointing)
        try:
            if at != name:
                teacher = None  # before the next one is made
                teacher, at = made_teacher(name), name
                data = made_up(teacher, 32)
            options = dict(batch=batch, dtype="bfloat16", gradient_checkpointing=checkpointing)
            p = plan(shapes_only(name), adaptor, 1, **options)
            rows.append(row | size_row(teacher, data, p, batch, settings))
        except (RuntimeError, ValueError) as e:
            rows.append(row | dict(error=str(e)[-500:]))
        gc.collect()
        torch.cuda.empty_cache()
        print(rows[-1], flush=True)
    return rows


def drawing(args, log):
    """Four steps against fifty guided ones, with the shapes of Stable Diffusion 1.5."""
    name = "sd15" if CUDA else "shipped"
    teacher = real_size(name)
    torch.nn.Module.to(teacher.vae, torch.bfloat16, memory_format=torch.channels_last)
    rows = []
    with torch.device(DEVICE):
        student = Student(teacher, make_adaptor("controlnet", teacher, 1, 16))
    for n in (1, 8):
        cond = torch.rand(n, 1, teacher.image_size, teacher.image_size)
        draw = torch.autocast(DEVICE, torch.bfloat16)(
            partial(draw_images, student, [""] * n, cond, batch=n, any_steps=True)
        )

        draw(steps=1)
        draw(steps=1, guidance=3.0, sampler="ddim")
        memory(True)
        took = {
            f"{k} steps": min(timed(partial(draw, steps=k, sampler="renoise"), 3))
            for k in (1, 2, 4, 8)
        } | {
            "50 guided steps": min(timed(partial(draw, steps=50, guidance=3.0, sampler="ddim"), 2))
        }
        rows.append(
            dict(
                model=name,
                pictures=n,
                seconds={k: round(v, 4) for k, v in took.items()},
                **memory(),
            )
        )
        print(rows[-1], flush=True)
    return rows


# ---- speed, as ratios
def ratios(args, log):
    """What a step costs beside what it needs, with the shapes of Stable Diffusion 1.5."""
    teacher = real_size("sd15" if CUDA else "shipped")
    settings = dict(adaptor="controlnet", mixed_precision="bf16", dtype="bfloat16", grid_every=0)
    cfg = TrainConfig(batch=16 if CUDA else 2, **settings)
    rows, seconds = training(cfg, teacher, made_up(teacher, 32), 8 if CUDA else 1, apart=True)
    result = dict(
        batch=cfg.batch,
        ratios=[dict(what=w, ratio=round(r, 4), aim=a) for w, r, a in rows],
        seconds={k: round(v, 5) for k, v in seconds.items()},
        **memory(),
    )
    print(result, flush=True)
    return result
