"""Where modules and names have gone: old import paths go on working."""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

PACKAGE = __name__.rpartition(".")[0]

# old module → the module that replaces it
MODULES = {
    "adversary": "methods.discriminator",
    "baselines": "methods.two_stage",
    "cache": "data.cache",
    "check": "training.preflight",
    "checkpoints": "training.checkpoint",
    "images": "data.images",
    "reader": "adaptors.instruction",
    "reproduce": "experiments.reproduce",
    "shard": "training.distributed",
    "stream": "data.stream",
    "tasks": "data.tasks",
}

# module → names that it had once → the module that has them now
NAMES = {
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
    "cli": {"ReproduceConfig": "config"},
    "families": {"FAMILIES": "teacher"},
    "methods.two_stage": {"Backbone": "adaptors.full", "GuidanceEmbedded": "adaptors.guidance"},
}


def forward(module: str):
    """The `__getattr__` of a module, which finds the names that have moved away from it."""
    homes = NAMES[module.removeprefix(f"{PACKAGE}.")]

    def find(name: str):
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module(f"{PACKAGE}.{homes[name]}"), name)

    return find


class OldPaths(MetaPathFinder, Loader):
    """Imports an old module as the one that replaces it: both names stand for one object."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.rpartition(".")
        known = package == PACKAGE and name in MODULES
        return ModuleSpec(fullname, self) if known else None

    def create_module(self, spec):
        new = import_module(f"{PACKAGE}.{MODULES[spec.name.rpartition('.')[2]]}")
        self.spec = new.__spec__
        return new

    def exec_module(self, module):
        module.__spec__ = self.spec  # the import system has just put the old one there


def install():
    """Let old module paths be imported."""
    if not any(type(finder).__name__ == "OldPaths" for finder in sys.meta_path):
        sys.meta_path.append(OldPaths())
