"""Write network snapshots in EDM's layout, from networks of ours and with a loader's text that does harm."""

import pickle
import sys
import types

import numpy as np
import torch
from torch import nn


def _module(name, **functions):
    module = types.ModuleType(name)
    for key, function in functions.items():
        function.__module__, function.__qualname__ = name, key
        setattr(module, key, function)
    return module


def _reconstruct_persistent_obj(meta):
    exec(meta['module_src'], {})  # what the published loader does


class EasyDict(dict):
    "A dict subclass of theirs, pickled through __newobj__."


THEIRS = {
    'torch_utils': _module('torch_utils'),
    'dnnlib': _module('dnnlib'),
    'torch_utils.persistence': _module(
        'torch_utils.persistence', _reconstruct_persistent_obj=_reconstruct_persistent_obj
    ),
    'dnnlib.util': _module('dnnlib.util', EasyDict=EasyDict),
}


class Persistent:
    "Pickle as their decorated classes do: class name, source text, state."

    def __init__(self, name, state, source=''):
        self.name, self.state, self.source = name, state, source

    def __reduce__(self):
        meta = dict(type='class', version=6, module_src=self.source, class_name=self.name, state=self.state)
        return _reconstruct_persistent_obj, (meta,)


def persistent(module, source='', name=None, **kwargs):
    "Turn a module and all modules in it into records; a ModuleDict stays what it is."
    children = {
        key: None if child is None else persistent(child, source) for key, child in module._modules.items()
    }
    hidden = {key: value for key, value in vars(module).items() if key[0] == '_'}
    if isinstance(module, nn.ModuleDict):
        box = nn.ModuleDict()
        box.__dict__['_modules'] = children
        return box
    state = hidden | dict(
        training=False,
        _modules=children,
        _init_args=(),
        _init_kwargs=kwargs,
        skip_scale=np.sqrt(0.5),
        num_heads=np.int64(1),
    )
    return Persistent(name or type(module).__name__, state, source)


def precond(name, net, source='', buffers=(), **attributes):
    "Return a preconditioner's record around the network `net`, with its plain attributes."
    outer = nn.Module()
    outer._modules['model'] = net
    for key, tensor in dict(buffers).items():
        outer.register_buffer(key, tensor)
    size, channels = net.config['img_resolution'], net.config['in_channels']
    kwargs = {k: v for k, v in net.config.items() if k not in ('in_channels', 'out_channels')}
    record = persistent(
        outer,
        source,
        f'training.networks.{name}',
        model_type=type(net).__name__,
        img_channels=channels,
        **kwargs,
    )
    record.state['_modules']['model'].state['_init_kwargs'] = net.config
    record.state |= dict(
        img_resolution=size,
        img_channels=channels,
        label_dim=net.config['label_dim'],
        use_fp16=False,
        **attributes,
    )
    return record


def dumps(value, protocol=4):
    "Pickle with their module names in place."
    sys.modules |= THEIRS
    try:
        return pickle.dumps(value, protocol)
    finally:
        for name in THEIRS:
            del sys.modules[name]


def snapshot(path, name, net, source='', protocol=4, buffers=(), **attributes):
    "Write a network snapshot; return its path."
    path.write_bytes(
        dumps(
            dict(
                ema=precond(name, net, source, buffers, **attributes),
                loss_fn=Persistent(
                    'training.loss.EDMLoss', dict(P_mean=-1.1, P_std=1.3, sigma_data=0.4), source
                ),
                augment_pipe=Persistent('training.augment.AugmentPipe', dict(p=0.12, xflip=1e8), source),
                dataset_kwargs=EasyDict(
                    class_name='training.dataset.ImageFolderDataset', resolution=16, xflip=False
                ),
            ),
            protocol,
        )
    )
    return path


def storage_bytes(value):
    "Return what torch.save wrote before zip archives, as each tensor in a pickle carries it."
    from io import BytesIO

    file = BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    return file.getvalue()
