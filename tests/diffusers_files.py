"""Small networks in the manner of diffusers, and folders of them."""

import json

from safetensors.torch import save_file

_TWO = dict(
    sample_size=16,
    in_channels=3,
    out_channels=3,
    block_out_channels=[16, 32],
    norm_num_groups=8,
    down_block_types=['DownBlock2D', 'AttnDownBlock2D'],
    up_block_types=['AttnUpBlock2D', 'UpBlock2D'],
    layers_per_block=1,
)
CONFIGS = {
    'plain': _TWO,
    'ddpm': _TWO
    | dict(attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6),
    'classes': _TWO
    | dict(
        resnet_time_scale_shift='scale_shift',
        num_class_embeds=5,
        layers_per_block=2,
        mid_block_scale_factor=1.4,
        out_channels=6,
    ),
    'resnets': _TWO
    | dict(
        down_block_types=['ResnetDownsampleBlock2D', 'AttnDownBlock2D'],
        attn_norm_num_groups=4,
        up_block_types=['AttnUpBlock2D', 'ResnetUpsampleBlock2D'],
        center_input_sample=True,
    ),
    'three': _TWO
    | dict(
        block_out_channels=[16, 16, 32],
        add_attention=False,
        time_embedding_dim=48,
        down_block_types=['AttnDownBlock2D', 'DownBlock2D', 'AttnDownBlock2D'],
        up_block_types=['AttnUpBlock2D', 'UpBlock2D', 'AttnUpBlock2D'],
        downsample_type='resnet',
        upsample_type='resnet',
    ),
}
SCHEDULER = dict(
    _class_name='DDPMScheduler',
    _diffusers_version='0.42.1',
    num_train_timesteps=500,
    beta_schedule='squaredcos_cap_v2',
    prediction_type='v_prediction',
    clip_sample=False,
    variance_type='fixed_large',
)


def write_folder(folder, config, tensors, scheduler=None, pipeline=False):
    "Write configuration, weights and perhaps a scheduler as `save_pretrained` does; return the folder."
    home = folder / 'unet' if pipeline else folder
    home.mkdir(parents=True, exist_ok=True)
    (home / 'config.json').write_text(
        json.dumps({'_class_name': 'UNet2DModel', '_diffusers_version': '0.42.1', **config})
    )
    save_file(tensors, home / 'diffusion_pytorch_model.safetensors', {'format': 'pt'})
    if scheduler is not None:
        (folder / 'scheduler').mkdir(exist_ok=True)
        (folder / 'scheduler' / 'scheduler_config.json').write_text(json.dumps(scheduler))
    return folder
