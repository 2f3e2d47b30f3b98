"""Networks of latents beside their auto-encoder, as CompVis writes them, are never models of pictures."""

import pytest
import torch

from difflow import UNet, load_denoiser
from golden import fill

TOLD = dict(image_size=8, num_heads=1, use_new_attention_order=False, schedule='linear', prediction='eps')


@pytest.mark.parametrize('averages', [False, True])
def test_a_latent_diffusion_checkpoint_says_so(averages, tmp_path):
    own = fill(UNet(8, 3, 32, 3, 1, (), (1,))).state_dict()
    whole = {f'model.diffusion_model.{name}': tensor for name, tensor in own.items()}
    whole |= {'first_stage_model.encoder.conv_in.weight': torch.zeros(4, 3, 3, 3), 'betas': torch.zeros(1000)}
    if averages:
        whole |= {f'model_ema.diffusion_model{name.replace(".", "")}': t + 1 for name, t in own.items()}
    torch.save({'epoch': 3, 'global_step': 9, 'state_dict': whole}, tmp_path / 'model.ckpt')
    with pytest.raises(ValueError, match='latents.*first_stage_model'):
        load_denoiser(tmp_path / 'model.ckpt', **TOLD)
