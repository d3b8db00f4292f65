__version__ = "0.1.0"
"Conditional diffusion distillation. Heavy libraries load on first use: `import cond_distill` loads no torch."
import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["scenes", "schedule", "teacher", "loss", "adaptor", "sampler", "trainer", "metrics", "teach", "cli"],
    submod_attrs={"schedule": ["Schedule", "Prediction"], "teacher": ["Teacher"], "loss": ["codi_loss"],
                  "adaptor": ["Student", "ControlNetAdaptor"], "sampler": ["sample"], "trainer": ["distill", "TrainConfig"],
                  "scenes": ["Scenes"]})
