"""Tiny random models, built with diffusers' own classes and written to disk.

Weights are drawn here, tensor by tensor in the order of their names, so that they depend on a seed
and on nothing else: not on the weights that ship with the package, and not on how a library
initialises its layers.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

SIDE = 16  # pixels of the pictures that the latent models draw; their latents have 8 x 8 positions
WORDS = 40  # tokens of a caption
CAPTIONS = ("a red cube", "a small blue sphere on a sandy floor", "", "a cone left of a dome")


def draw_weights(model: torch.nn.Module, seed: int):
    """Replace every parameter: matrices by 1/sqrt(fan-in) noise, scales near 1, biases near 0."""
    generator = torch.Generator().manual_seed(seed)
    # transformers 4 and 5 name the text encoder's parameters differently
    named = {name.removeprefix("text_model."): p for name, p in model.named_parameters()}
    with torch.no_grad():
        for name in sorted(named):
            p = named[name]
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                p.copy_(noise / p[0].numel() ** 0.5)
            else:
                p.copy_(0.1 * noise + float(name.endswith("weight")))
    return model.eval()


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A tokenizer that spells: its vocabulary is the alphabet."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(c + "</w>" for c in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: i for i, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=WORDS)


def text_encoder(kind, width: int, seed: int):
    """A text encoder of two small layers."""
    config = CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=WORDS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return draw_weights(kind(config), seed)


def autoencoder(channels: int = 4, **settings) -> AutoencoderKL:
    """Halves a picture once."""
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=SIDE,
        **settings,
    )
    return draw_weights(model, 1)


def unet(text_width: int, **settings) -> UNet2DConditionModel:
    """Two levels, one of them with attention."""
    model = UNet2DConditionModel(
        sample_size=SIDE // 2,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=2,
        norm_num_groups=4,
        **settings,
    )
    return draw_weights(model, 2)


def ddim_scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type=prediction_type,
    )


def stable_diffusion(folder: Path, prediction_type: str = "epsilon"):
    """Stable Diffusion 1 ("epsilon") or 2 ("v_prediction")."""
    StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(CLIPTextModel, 16, seed=3),
        tokenizer=tokenizer(folder / "words"),
        unet=unet(16),
        scheduler=ddim_scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def stable_diffusion_xl(folder: Path):
    network = unet(
        32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
        use_linear_projection=True,
    )
    StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(CLIPTextModel, 16, seed=3),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, 16, seed=4),
        tokenizer=tokenizer(folder / "words"),
        tokenizer_2=tokenizer(folder / "words"),
        unet=network,
        scheduler=ddim_scheduler("epsilon"),
        add_watermarker=False,
    ).save_pretrained(folder)


def stable_diffusion_3(folder: Path):
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 2,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=48,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    )
    StableDiffusion3Pipeline(
        transformer=draw_weights(transformer, 5),
        vae=autoencoder(shift_factor=0.1),
        text_encoder=text_encoder(CLIPTextModelWithProjection, 16, seed=3),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, 16, seed=4),
        tokenizer=tokenizer(folder / "words"),
        tokenizer_2=tokenizer(folder / "words"),
        text_encoder_3=None,
        tokenizer_3=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)


def pixels(folder: Path):
    """An unconditional model on pictures of 16 x 16 pixels."""
    network = UNet2DModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    DDPMPipeline(draw_weights(network, 6), ddim_scheduler("v_prediction")).save_pretrained(folder)


def pictures(folder: Path, n: int = 12):
    """Photographs to train on: smooth random colours, some with a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for k in range(n):
        small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        large = Image.fromarray(small).resize((30, 25), Image.Resampling.BILINEAR)
        large.save(folder / f"{k:02}.png")
        if CAPTIONS[k % 4]:
            (folder / f"{k:02}.txt").write_text(CAPTIONS[k % 4])


MAKERS = {
    "sd1": stable_diffusion,
    "sd2": lambda folder: stable_diffusion(folder, "v_prediction"),
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "pixels": pixels,
}
