"""Conditional diffusion distillation.

Heavy libraries load on first use: `import cond_distill` loads no torch.
"""

__version__ = "0.1.0"

from importlib import import_module

from cond_distill import _moved

_moved.install()

# public name → the module that defines it
_HOMES = {
    "Schedule": "schedule",
    "Prediction": "schedule",
    "Teacher": "teacher",
    "codi_loss": "loss",
    "ControlNetAdaptor": "adaptor",
    "T2IAdaptor": "adaptors.t2i",
    "FusionAdaptor": "adaptors.fusion",
    "ConcatAdaptor": "adaptors.concat",
    "LoRAAdaptor": "adaptors.lora",
    "Student": "student",
    "compose": "student",
    "sample": "sampler",
    "draw_images": "sampler",
    "open_adaptor": "opening",
    "CoDiScheduler": "scheduler",
    "CoDiPipeline": "pipeline",
    "TrainConfig": "config",
    "distill": "trainer",
    "distill_to_end": "trainer",
    "fidelity_fn": "training.fidelity",
    "Scenes": "data.scenes",
}
_MODULES = [
    "schedule",
    "teacher",
    "loss",
    "adaptor",
    "adaptors",
    "student",
    "pipeline",
    "sampler",
    "config",
    "trainer",
    "cli",
]
__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str):
    """A public name or module, loaded when it is asked for the first time."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
