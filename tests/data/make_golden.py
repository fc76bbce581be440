"""Makes the golden files whose names begin with torch_: PyTorch's results in float64 for options that the other files leave out.

usage: make_golden.py FOLDER        (needs torch and safetensors)
"""
import sys

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)


def save(name, tensors, **metadata):
    save_file({key: t.detach().contiguous() for key, t in tensors.items()}, f'{sys.argv[1]}/torch_{name}.safetensors',
              {key: str(value) for key, value in metadata.items()})


def layer(name, module, x, **metadata):
    """Forward and backward of a module on x, with its parameters and buffers."""
    for p in module.parameters():
        nn.init.normal_(p)
    tensors = {f'buffer.{key}': b.clone() for key, b in module.named_buffers()}
    x = x.clone().requires_grad_()
    y = module(x)
    grad_y = torch.randn_like(y)
    y.backward(grad_y)
    tensors |= {'x': x, 'y': y, 'grad_y': grad_y, 'grad.x': x.grad}
    for key, p in module.named_parameters():
        tensors |= {f'param.{key}': p, f'grad.{key}': p.grad}
    tensors |= {f'buffer_after.{key}': b for key, b in module.named_buffers()}
    save(name, tensors, **metadata)


def trajectory(name, optimizer, steps=6, **metadata):
    w, b = nn.Parameter(torch.randn(3, 4, 2, 2)), nn.Parameter(torch.randn(5))
    tensors = {'param.w': w.clone(), 'param.b': b.clone()}
    optimizer = optimizer([w, b])
    for step in range(steps):
        for key, p in (('w', w), ('b', b)):
            p.grad = torch.randn_like(p)
            tensors[f'step{step}.grad.{key}'] = p.grad.clone()
        optimizer.step()
        tensors |= {f'step{step}.param.w': w.clone(), f'step{step}.param.b': b.clone()}
    save(name, tensors, steps=steps, **metadata)


norm = nn.BatchNorm2d(5, eps=1e-3).eval()
norm.running_mean.normal_()
norm.running_var.uniform_(0.5, 2)
layer('batchnorm_eval', norm, torch.randn(3, 5, 4, 3), op='batchnorm2d', training=0, momentum=0.1, eps=1e-3)
layer('conv2d_groups', nn.Conv2d(6, 9, (3, 2), 2, 2, 2, 3, bias=False), torch.randn(2, 6, 8, 7), op='conv2d', stride=2, padding=2,
      groups=3, dilation=2)
layer('conv2d_pointwise', nn.Conv2d(7, 5, 1), torch.randn(2, 7, 3, 4), op='conv2d', stride=1, padding=0, groups=1, dilation=1)
layer('gelu_tanh', nn.GELU('tanh'), 3 * torch.randn(2, 5, 3), op='gelu', approximate='tanh')
layer('maxpool_overlap', nn.MaxPool2d(3, 2, 1), torch.randn(2, 3, 7, 6), op='maxpool2d', kernel=3, stride=2, padding=1)
layer('layernorm_rank1', nn.LayerNorm(6, 1e-2), torch.randn(6), op='layernorm', eps=1e-2)
for reduction, smoothing in (('sum', 0.1), ('mean', 0)):
    x, target = torch.randn(7, 5, requires_grad=True), torch.randint(5, (7,))
    y = F.cross_entropy(x, target, label_smoothing=smoothing, reduction=reduction)
    y.backward()
    save(f'cross_entropy_{reduction}', {'x': x, 'target': target, 'y': y, 'grad.x': x.grad}, op='cross_entropy',
         label_smoothing=smoothing, reduction=reduction)
trajectory('sgd_plain', lambda p: torch.optim.SGD(p, 0.1), op='sgd', lr=0.1, momentum=0, weight_decay=0, nesterov=0)
trajectory('sgd_momentum', lambda p: torch.optim.SGD(p, 0.05, 0.8, weight_decay=0.01), op='sgd', lr=0.05, momentum=0.8,
           weight_decay=0.01, nesterov=0)
trajectory('adamw_no_decay', lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0), op='adamw', lr=1e-3, beta1=0.9, beta2=0.999,
           eps=1e-8, weight_decay=0)
