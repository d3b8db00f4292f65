"""Old names: import paths, names and saved files of earlier versions go on working.

Everything that was ever called differently stands in the three tables below.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

PACKAGE = __name__.rpartition(".")[0]

# old module → the module that replaces it
MODULES = {
    "adversary": "methods.discriminator",
    "baselines": "methods.two_stage",
    "cache": "data.cache",
    "check": "training.preflight",
    "checkpoints": "training.checkpoint",
    "compare": "evaluation.compare",
    "experiments.exam": "experiments.evaluation",
    "images": "data.images",
    "reader": "adaptors.instruction",
    "reproduce": "experiments.reproduce",
    "scenes": "data.scenes",
    "shard": "training.distributed",
    "stream": "data.stream",
    "tasks": "data.tasks",
    "training.callbacks": "training.validation",
}

# module → name that it had once → "module" that has it now, or "module:new name"
NAMES = {
    "adaptor": {
        "Student": "student",
        "Prepared": "student",
        "keep_signal": "adaptor:init_condition_encoder",
    },
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
        "Composed": "adaptors.several:MultiAdaptor",
        "compose": "student",
    },
    "methods.discriminator": {
        "Adversary": "methods.discriminator:Discriminator",
    },
    "adaptors.instruction": {
        "TextReader": "adaptors.instruction:InstructionEncoder",
    },
    "cli": {
        "ReproduceConfig": "config",
        "DemoConfig": "options",
        "SampleConfig": "options",
        "EvaluateConfig": "options",
        "CheckConfig": "options",
        "PlanConfig": "options",
        "read_picture": "drawing",
        "fitted": "drawing",
        "read_condition": "drawing",
        "find_adaptor": "drawing",
        "picture_file": "drawing",
        "write_demo": "experiments.demo",
        "UNDISTILLED": "experiments.demo",
        "said_of_runtime": "cli:explain_runtime_error",
        "in_plain_letters": "cli:plain_letters",
        "PLAIN": "cli:ASCII_FORMS",
        "FULL": "cli:MEMORY_WORDS",
        "ABOUT": "cli:DESCRIPTION",
    },
    "config": {
        "evaluations": "methods.catalogue",
    },
    "data.cache": {
        "make_batch": "data.source",
        "describe": "data.cache:describe_photos",
    },
    "data.conditions": {
        "blur": "data.conditions:random_blur",
    },
    "data.folder": {
        "CAPTIONS": "data.items",
        "CONDITIONS": "data.items",
        "TARGETS": "data.items",
        "Columns": "data.items",
        "USUAL": "data.items",
        "Item": "data.items",
        "Found": "data.items:Listing",
        "as_captions": "data.items",
        "pick": "data.items",
        "THUMBNAILS": "data.files",
        "METADATA": "data.files",
        "CAPTION_ENDINGS": "data.files",
        "MAX_METADATA": "data.files",
        "MAX_CAPTION": "data.files",
        "list_files": "data.files",
        "is_picture": "data.files",
        "shown": "data.files:printable",
        "read_text": "data.files",
    },
    "data.images": {
        "MAX_PIXELS": "data.decode",
        "PICTURES": "data.decode",
        "open_image": "data.decode",
        "list_images": "data.folder",
    },
    "data.stream": {
        "first_examples": "data.source:first_rows",
    },
    "data.tasks": {
        "spoil": "data.conditions:degrade",
        "fill": "data.conditions:composite",
        "resize": "data.conditions",
        "EDITS": "data.edits",
        "edit": "data.edits",
        "PALETTE": "data.measures",
    },
    "evaluation.distances": {
        "inception_weights": "evaluation.standard",
        "inception_fid": "evaluation.standard",
    },
    "experiments.toy_teacher": {
        "ToyTeacherConfig": "experiments.toy_renders",
        "CPU": "experiments.toy_renders",
        "GPU": "experiments.toy_renders",
        "NO_GPU": "experiments.toy_renders",
        "PIECE": "experiments.toy_renders",
        "rendered": "experiments.toy_renders",
        "LATENT": "experiments.toy_vae",
        "new_vae": "experiments.toy_vae",
        "vae_loss": "experiments.toy_vae",
        "train_vae": "experiments.toy_vae",
        "open_vae": "experiments.toy_vae",
        "reconstruct": "experiments.toy_vae",
        "encoded": "experiments.toy_vae",
        "LETTERS": "experiments.toy_words",
        "BEGIN": "experiments.toy_words",
        "END": "experiments.toy_words",
        "new_tokenizer": "experiments.toy_words",
        "caption_tokenizer": "experiments.toy_words",
        "new_text_encoder": "experiments.toy_words",
        "tokenized": "experiments.toy_words",
    },
    "evaluation.damage": {
        "spoil": "evaluation.damage:damage_by_amount",
        "degrade": "evaluation.damage:damage_by_amount",
        "KINDS": "evaluation.damage:DAMAGES",
        "RANGES": "evaluation.damage:AMOUNTS",
    },
    "experiments.budget": {
        "units": "experiments.budget:cost",
    },
    "experiments.evaluation": {
        "exam": "experiments.evaluation:evaluate_job",
        "evaluate": "experiments.evaluation:evaluate_job",
        "standard": "evaluation.standard:standard_columns",
    },
    "experiments.fit": {
        "stop_on_signals": "utils:catch_interrupt",
    },
    "evaluation.compare": {
        "LEAST": "evaluation.distances",
    },
    "families": {
        "FAMILIES": "teacher",
        "load_networks": "families:load_missing_networks",
        "pack": "families:pack_text",
    },
    "loss": {
        "Draw": "loss:NoiseSample",
        "draw": "loss:sample_noise",
        "printed": "loss:paper_weights",
        "agreement_only": "loss:consistency_only",
        "STEPS_TO_S": "loss:SOLVERS",
        "step_to_s": "loss:solve",
    },
    "methods.two_stage": {
        "Backbone": "adaptors.full:FullFinetune",
        "GuidanceEmbedded": "adaptors.scalar_input",
        "followed": "methods.two_stage:ddim_solver_step",
        "answer_for": "methods.two_stage:progressive_target",
        "plain": "methods.two_stage:TeacherAsStudent",
        "as_student": "methods.two_stage:TeacherAsStudent",
        "FOLLOWERS": "methods.catalogue:METHODS",
        "TWO_STAGE_LOSSES": "methods.catalogue:METHODS",
    },
    "options": {
        "require_finite": "ranges:check_number",
        "Sampler": "options:SamplerName",
    },
    "pipeline": {
        "CoDiSchedulerOutput": "scheduler",
        "MAX_GUIDANCE": "pipeline_inputs",
    },
    "sampler": {
        "METHODS": "sampler:SAMPLERS",
        "pick_method": "sampler:sampler_name",
        "said_curve": "model_card:curve_text",
        "curve_text": "model_card",
    },
    "teacher": {
        "guide": "teacher:classifier_free_guidance",
        "added": "teacher:output_hooks",
    },
    "trainer": {
        "held_examples": "training.validation:validation_batch",
        "validation_batch": "training.validation",
        "measure_curve": "training.validation",
        "logged_minutes": "training.validation",
        "ask_judge": "training.validation:evaluate_run",
        "first_adaptor": "training.state:build_adaptor",
        "build_adaptor": "training.state",
        "make_optimizer": "training.state",
        "compile_networks": "training.state",
        "MovingAverage": "training.state",
        "round_of": "methods.base:progressive_stage",
        "progressive_stage": "methods.base",
        "FREE": "training.resume:RESUME_OVERRIDES",
        "RESUME_OVERRIDES": "training.resume",
        "one_step": "trainer:train_step",
        "resume": "training.resume:load_run",
        "piece": "trainer:row_part",
        "shares": "trainer:micro_batches",
        "steps": "trainer:train_steps",
    },
    "utils": {
        "calm_interrupt": "utils:catch_interrupt",
    },
    "play": {
        "ABOUT": "play:TAB_HINTS",
    },
    "training.resume": {
        "alone": "training.resume:run_lock",
        "fits": "training.resume:try_restore",
    },
    "training.preflight": {
        "check_guidance": "training.preflight:check_caption_guidance",
        "check_range": "training.preflight:check_magnitude",
        "reach": "training.preflight:condition_effect",
        "sheet": "training.preflight:examples_sheet",
    },
    "ranges": {
        "KINDS": "ranges:FIELD_KINDS",
    },
    "schedule_settings": {
        "KINDS": "schedule_settings:SCHEDULE_KINDS",
    },
    "data.estimate": {
        "KINDS": "data.estimate:ESTIMATORS",
    },
    "experiments.jobs": {
        "METHODS": "experiments.jobs:COMPARED",
    },
    "experiments.demo": {
        "STEPS": "experiments.demo:DEMO_STEPS",
    },
    "data.items": {
        "Found": "data.items:Listing",
    },
    "evaluation.fidelity": {
        "evaluate": "evaluation.fidelity:evaluate_pictures",
    },
    "evaluation.folders": {
        "Pictures": "evaluation.folders:FolderPictures",
    },
    "evaluation.ladder": {
        "DAMAGES": "evaluation.ladder:LADDERS",
    },
    "evaluation.standard": {
        "Pictures": "evaluation.standard:Images",
    },
    "experiments.reproduce": {
        "plan": "experiments.reproduce:list_jobs",
    },
    "pipeline_inputs": {
        "Pictures": "pipeline_inputs:ImageInput",
    },
}

# class of an adaptor in a saved file → its name now
ADAPTOR_CLASSES = {"Backbone": "FullFinetune"}


def forward(module: str):
    """The `__getattr__` of a module, which finds the names that it had once."""
    homes = NAMES[module]

    def find(name: str):
        if name not in homes:
            raise AttributeError(f"module '{PACKAGE}.{module}' has no attribute {name!r}")
        home, _, new = homes[name].partition(":")
        return getattr(import_module(f"{PACKAGE}.{home}"), new or name)

    return find


class Forwarding(SourceFileLoader):
    """Loads a module as ever, and lets it know the names that it had once."""

    def exec_module(self, module):
        super().exec_module(module)
        module.__getattr__ = forward(self.name.removeprefix(f"{PACKAGE}."))


class Alias(Loader):
    """Loads an old module as the one that replaces it: both names stand for one object."""

    def create_module(self, spec):
        new = import_module(f"{PACKAGE}.{MODULES[spec.name.removeprefix(f'{PACKAGE}.')]}")
        self.spec = new.__spec__
        return new

    def exec_module(self, module):
        module.__spec__ = self.spec  # the import system has just put the old one there


class OldNames(MetaPathFinder):
    """Finds the modules of this package that have been called differently."""

    def find_spec(self, fullname, path=None, target=None):
        if not fullname.startswith(f"{PACKAGE}."):
            return None
        module = fullname.removeprefix(f"{PACKAGE}.")
        if module in MODULES:
            return ModuleSpec(fullname, Alias())
        spec = PathFinder.find_spec(fullname, path) if module in NAMES else None
        if spec:
            spec.loader = Forwarding(fullname, spec.origin or "")
        return spec


def install():
    """Let old names be imported."""
    if not any(type(finder).__name__ == "OldNames" for finder in sys.meta_path):
        sys.meta_path.insert(0, OldNames())
