"Conditional diffusion distillation. Heavy libraries load on first use: `import cond_distill` loads no torch."

__version__ = "0.1.0"
import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "scenes",
        "schedule",
        "teacher",
        "loss",
        "adaptor",
        "adaptors",
        "pipeline",
        "sampler",
        "config",
        "trainer",
        "metrics",
        "compare",
        "teach",
        "cli",
    ],
    submod_attrs={
        "schedule": ["Schedule", "Prediction"],
        "teacher": ["Teacher"],
        "loss": ["codi_loss"],
        "adaptor": ["Student", "ControlNetAdaptor"],
        "adaptors": ["T2IAdaptor", "FusionAdaptor", "ConcatAdaptor", "LoRAAdaptor", "compose"],
        "sampler": ["sample"],
        "pipeline": ["CoDiPipeline", "CoDiScheduler"],
        "config": ["TrainConfig"],
        "trainer": ["distill"],
        "scenes": ["Scenes"],
    },
)
