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

# module → module that has its names now → those names, as "name" or "name:new name"
NAMES = {
    "adaptor": {
        "student": "Student Prepared",
        "adaptor": "keep_signal:init_condition_encoder",
        "adaptors.instruction": "READER",
    },
    "experiments.demo": {"experiments.demo": "UNDISTILLED:FINETUNED"},
    "adaptors": {
        "adaptors.catalogue": "ADAPTORS make_adaptor",
        "adaptors.concat": "ConcatAdaptor as_latent latent_channels",
        "adaptors.t2i": "T2IAdaptor",
        "adaptors.lora": "LoRAAdaptor",
        "adaptors.fusion": "FusionAdaptor encoder decoder",
        "adaptors.transformer": "TransformerControlNetAdaptor",
        "adaptors.several": "Composed:MultiAdaptor",
        "student": "compose",
    },
    "student": {"student_file": "info_of with_todays_keys adaptor_class"},
    "methods.discriminator": {"methods.discriminator": "Adversary:Discriminator"},
    "adaptors.instruction": {"adaptors.instruction": "TextReader:InstructionEncoder"},
    "cli": {
        "config": "ReproduceConfig",
        "options": "DemoConfig SampleConfig EvaluateConfig CheckConfig PlanConfig",
        "drawing": "read_picture fitted read_condition picture_file",
        "opening": "find_adaptor",
        "experiments.demo": "write_demo UNDISTILLED:FINETUNED",
        "cli": (
            "said_of_runtime:explain_runtime_error in_plain_letters:plain_letters "
            "PLAIN:ASCII_FORMS FULL:MEMORY_WORDS ABOUT:DESCRIPTION"
        ),
    },
    "drawing": {
        "opening": "find_adaptor shared_teacher open_adaptor read_settings",
        "figures": "sheet mark pack save_figure",
    },
    "config": {"methods.catalogue": "evaluations"},
    "data.cache": {"data.source": "make_batch", "data.cache": "describe:describe_photos"},
    "data.conditions": {"data.conditions": "blur:random_blur"},
    "data.folder": {
        "data.items": (
            "CAPTIONS CONDITIONS TARGETS Columns USUAL Item Found:Listing as_captions pick"
        ),
        "data.files": (
            "THUMBNAILS METADATA CAPTION_ENDINGS MAX_METADATA MAX_CAPTION list_files is_picture "
            "shown:printable read_text"
        ),
    },
    "data.images": {"data.decode": "MAX_PIXELS PICTURES open_image", "data.folder": "list_images"},
    "data.stream": {"data.source": "first_examples:first_rows"},
    "data.tasks": {
        "data.conditions": "spoil:degrade fill:composite resize",
        "data.edits": "EDITS edit",
        "data.measures": "PALETTE",
    },
    "evaluation.distances": {"evaluation.standard": "inception_weights inception_fid"},
    "experiments.toy_teacher": {
        "experiments.toy_renders": "ToyTeacherConfig CPU GPU NO_GPU PIECE rendered",
        "experiments.toy_vae": "LATENT new_vae vae_loss train_vae open_vae reconstruct encoded",
        "experiments.toy_words": (
            "LETTERS BEGIN END new_tokenizer caption_tokenizer new_text_encoder tokenized"
        ),
    },
    "evaluation.damage": {
        "evaluation.damage": (
            "spoil:damage_by_amount degrade:damage_by_amount KINDS:DAMAGES RANGES:AMOUNTS"
        ),
    },
    "experiments.budget": {"experiments.budget": "units:cost"},
    "experiments.evaluation": {
        "experiments.evaluation": "exam:evaluate_job evaluate:evaluate_job",
        "evaluation.standard": "standard:standard_columns",
    },
    "experiments.fit": {"utils": "stop_on_signals:catch_interrupt"},
    "evaluation.compare": {"evaluation.distances": "LEAST"},
    "families": {
        "teacher": "FAMILIES",
        "families": "load_networks:load_missing_networks pack:pack_text",
    },
    "loss": {
        "loss": (
            "Draw:NoiseSample draw:sample_noise printed:paper_weights "
            "agreement_only:consistency_only STEPS_TO_S:SOLVER_CHOICES step_to_s:solve "
            "SOLVERS:SOLVER_CHOICES TIMESTEPS:TIMESTEP_CHOICES"
        ),
    },
    "methods.two_stage": {
        "adaptors.full": "Backbone:FullFinetune",
        "adaptors.scalar_input": "GuidanceEmbedded",
        "methods.two_stage": (
            "followed:ddim_solver_step answer_for:progressive_target plain:TeacherAsStudent "
            "as_student:TeacherAsStudent"
        ),
        "methods.catalogue": "FOLLOWERS:METHODS TWO_STAGE_LOSSES:METHODS",
    },
    "options": {"ranges": "require_finite:check_number", "options": "Sampler:SamplerName"},
    "model_card": {"sampler": "curve_text"},
    "pipeline": {
        "scheduler": "CoDiSchedulerOutput",
        "pipeline_inputs": "MAX_GUIDANCE",
        # for saved pipelines; diffusers looks for ModelMixin beside a class that it opens
        "pipeline_parts": "PipelineAdaptor ModelMixin",
    },
    "sampler": {
        "sampler": "METHODS:SAMPLERS pick_method:sampler_name said_curve:curve_text",
    },
    "teacher": {"teacher": "guide:classifier_free_guidance added:output_hooks"},
    "trainer": {
        "data.stream": "held_examples:held_out_examples validation_batch:held_out_examples",
        "training.validation": "measure_curve logged_minutes ask_judge:evaluate_run",
        "training.state": "make_optimizer compile_networks MovingAverage",
        "methods.base": "round_of:progressive_stage progressive_stage",
        "training.resume": "FREE:RESUME_OVERRIDES RESUME_OVERRIDES resume:load_run",
        "trainer": "one_step:train_step piece:row_part shares:micro_batches steps:train_steps",
    },
    "utils": {"utils": "calm_interrupt:catch_interrupt"},
    "play": {"play": "ABOUT:TAB_HINTS"},
    "training.resume": {"training.resume": "alone:run_lock fits:try_restore"},
    "training.preflight": {
        "training.preflight": (
            "check_guidance:check_caption_guidance check_range:check_magnitude "
            "reach:condition_effect sheet:examples_sheet"
        ),
    },
    "ranges": {"ranges": "KINDS:FIELD_KINDS"},
    "schedule_settings": {"schedule_settings": "KINDS:SCHEDULE_KINDS"},
    "data.estimate": {"data.estimate": "KINDS:ESTIMATORS"},
    "experiments.jobs": {"experiments.jobs": "METHODS:COMPARED"},
    "experiments.demo": {"experiments.demo": "STEPS:DEMO_STEPS"},
    "data.items": {"data.items": "Found:Listing"},
    "evaluation.fidelity": {"evaluation.fidelity": "evaluate:evaluate_pictures"},
    "evaluation.folders": {"evaluation.folders": "Pictures:FolderPictures"},
    "evaluation.ladder": {"evaluation.ladder": "DAMAGES:LADDERS"},
    "evaluation.standard": {"evaluation.standard": "Pictures:Images"},
    "experiments.reproduce": {"experiments.reproduce": "plan:list_jobs"},
    "pipeline_inputs": {"pipeline_inputs": "Pictures:ImageInput"},
    "training.validation": {"data.stream": "validation_batch:held_out_examples"},
}

# class of an adaptor in a saved file → its name now
ADAPTOR_CLASSES = {"Backbone": "FullFinetune"}


def homes_of(module: str) -> dict[str, tuple[str, str]]:
    """Name that a module had once → the module that has it now, and its name there."""
    return {
        old: (home, new or old)
        for home, names in NAMES[module].items()
        for old, _, new in (name.partition(":") for name in names.split())
    }


def forward(module: str):
    """The `__getattr__` of a module, which finds the names that it had once."""
    homes = homes_of(module)

    def find(name: str):
        if name not in homes:
            raise AttributeError(f"module '{PACKAGE}.{module}' has no attribute {name!r}")
        home, new = homes[name]
        return getattr(import_module(f"{PACKAGE}.{home}"), new)

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
