"""Where names have gone: one table, read by the thin modules that stand at the old places."""

from importlib import import_module

# old module → the module that replaces it, or for each name the module that has it now
MOVED: dict[str, str | dict[str, str]] = {
    "adaptor": {"Student": "student", "Prepared": "student"},
    "adaptors": {
        "ADAPTORS": "adaptors.catalogue",
        "make_adaptor": "adaptors.catalogue",
        "ConcatAdaptor": "adaptors.concat",
        "as_latent": "adaptors.concat",
        "latent_channels": "adaptors.concat",
        "T2IAdaptor": "adaptors.t2i",
        "LoRAAdaptor": "adaptors.lora",
        "FusionAdaptor": "adaptors.fusion",
        "encoder": "adaptors.fusion",
        "decoder": "adaptors.fusion",
        "TransformerControlNetAdaptor": "adaptors.transformer",
        "Composed": "adaptors.several",
        "compose": "student",
    },
    "baselines": {"Backbone": "adaptors.full", "GuidanceEmbedded": "adaptors.guidance"},
    "cli": {"ReproduceConfig": "config"},
    "families": {"FAMILIES": "teacher"},
    "reader": "adaptors.instruction",
}


def forward(module: str):
    """The `__getattr__` of a module, which finds what has moved away from it."""
    homes = MOVED[module.removeprefix("cond_distill.")]

    def find(name: str):
        home = homes if isinstance(homes, str) else homes.get(name)
        if home is None or name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module(f"cond_distill.{home}"), name)

    return find
