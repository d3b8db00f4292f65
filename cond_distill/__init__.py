"""Conditional diffusion distillation.

Heavy libraries load on first use: `import cond_distill` loads no torch.
"""

__version__ = "0.1.0"

import lazy_loader as _lazy

from cond_distill import _moved

_moved.install()

# public name → the module that defines it
_HOMES = {
    "schedule": ["Schedule", "Prediction"],
    "teacher": ["Teacher"],
    "loss": ["codi_loss"],
    "adaptor": ["ControlNetAdaptor"],
    "adaptors.t2i": ["T2IAdaptor"],
    "adaptors.fusion": ["FusionAdaptor"],
    "adaptors.concat": ["ConcatAdaptor"],
    "adaptors.lora": ["LoRAAdaptor"],
    "student": ["Student", "compose"],
    "sampler": ["sample"],
    "scheduler": ["CoDiScheduler"],
    "pipeline": ["CoDiPipeline"],
    "config": ["TrainConfig"],
    "trainer": ["distill"],
    "data.scenes": ["Scenes"],
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
__getattr__, __dir__, __all__ = _lazy.attach(__name__, submodules=_MODULES, submod_attrs=_HOMES)
