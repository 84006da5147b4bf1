"""Torch modules that convert, and reasons and remedies for those that do not.

A module is accepted only if its computation is known: it is an instance of one of the classes in
`KINDS` and runs the `forward` of that class. Modules of other classes are traced.
"""

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from spikesep.spiking.folding import NORMS
from spikesep.spiking.levels.activation import Levels
from spikesep.spiking.network import NotConvertibleError
from spikesep.spiking.synapses.kinds import NO_OPS, SYNAPSES

AVERAGES = (nn.AvgPool1d, nn.AvgPool2d)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d)
ADAPTIVE = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
)
MOVES = (
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.Upsample),
    *(nn.UpsamplingNearest2d, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
)
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, Levels)
LEAVES = (
    *(*SYNAPSES, *NORMS, *RECTIFIERS, *AVERAGES, *MAXIMA, *ADAPTIVE),
    *(nn.Flatten, *MOVES, *NO_OPS),
)
KINDS = (nn.Sequential, *LEAVES)
METHODS = ("forward", "_conv_forward", "__call__")
"""Methods by which a subclass or instance could deviate from its torch class."""
COMPUTED = ("weight", "bias")
"""Tensors that weight norm, pruning and parametrizations replace by computed ones."""
COMPUTING_HOOKS = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
_CONVOLUTION = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"),
    *("groups", "padding_mode"),
)
_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
ARGUMENTS = {
    nn.Linear: ("in_features", "out_features"),
    nn.Conv1d: _CONVOLUTION,
    nn.Conv2d: _CONVOLUTION,
    nn.ConvTranspose1d: (*_CONVOLUTION, "output_padding"),
    nn.ConvTranspose2d: (*_CONVOLUTION, "output_padding"),
    nn.BatchNorm1d: _NORM,
    nn.BatchNorm2d: _NORM,
}
"""Constructor arguments that give a module of the same computation."""

_AGAIN = "take ReLU and train again"
_OUTSIDE = "take ReLU inside the network; {} may follow the last Linear or Conv layer"
REMEDIES = {
    "MaxPool3d AvgPool3d Conv3d": "networks of one or two dimensions convert",
    "ReLU6 Hardtanh": "a clipped ReLU must follow a Linear or Conv layer, from 0 to a number",
    "PReLU LeakyReLU RReLU ELU SELU CELU": f"{_AGAIN}: a spiking neuron has no negative output",
    "GELU SiLU Mish Softplus Hardswish": _AGAIN,
    "Sigmoid": _OUTSIDE.format("a sigmoid"),
    "Tanh": _OUTSIDE.format("a tanh"),
    "Softmax LogSoftmax": _OUTSIDE.format("a softmax"),
    "LayerNorm GroupNorm InstanceNorm1d InstanceNorm2d RMSNorm LocalResponseNorm": (
        "take batch norm: a norm over the input at hand cannot be folded into weights"
    ),
    "SyncBatchNorm": "take BatchNorm1d or BatchNorm2d with its state_dict, the same in inference",
    "DataParallel DistributedDataParallel AveragedModel": (
        "is a wrapper; give the network inside it, its .module"
    ),
    "OptimizedModule": "is compiled; give the network that was compiled, its ._orig_mod",
    "ModuleList list tuple": "give the modules in one nn.Sequential(*modules)",
    "RNN LSTM GRU": "a recurrent layer has no spiking counterpart; take convolutions over time",
    "MultiheadAttention Transformer TransformerEncoderLayer": (
        "attention multiplies activations, which spikes cannot; take convolutions"
    ),
}
"""By class names."""
FUNCTIONS = {
    "mul truediv div matmul bmm einsum pow": (
        "a product or quotient of activations has no spiking counterpart; fold constant factors "
        "into the weights"
    ),
    "linear conv1d conv2d conv_transpose1d conv_transpose2d batch_norm": (
        "write it as an nn.Module, so that its weights are known as such"
    ),
    "view reshape": "only Flatten and reshapes that keep the batch convert",
    "interpolate": "only nearest-neighbor upsampling by a whole scale_factor converts",
    "sub": "a difference has no spiking counterpart; change the sign of the weights and add",
}
"""Remedies by the names of functions and methods."""
CLASSES = {
    "prelu": "PReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "selu": "SELU", "gelu": "GELU",
    "silu": "SiLU", "mish": "Mish", "softplus": "Softplus", "hardswish": "Hardswish",
    "sigmoid": "Sigmoid", "tanh": "Tanh", "softmax": "Softmax", "log_softmax": "LogSoftmax",
    "layer_norm": "LayerNorm", "group_norm": "GroupNorm", "instance_norm": "InstanceNorm1d",
}  # fmt: skip
"""The class that computes what a function does."""


def require_known(path: str, module: object) -> type[nn.Module]:
    """The torch class whose computation a module does.

    Raises:
        NotConvertibleError: there is none; names `path`, or the network if it is empty.
    """
    kind = next((kind for kind in KINDS if isinstance(module, kind)), None)
    if kind is None or not isinstance(module, nn.Module):
        raise refusal(path, module, remedy_of(module))
    changed = any(
        getattr(type(module), name, None) is not getattr(kind, name, None) or name in vars(module)
        for name in METHODS
    )
    if changed:
        why = "its own forward() does what conversion would leave out"
        raise refusal(path, module, f"{why}; take {kind.__name__} itself, or write it as modules")
    return kind


def require_no_hooks(network: nn.Module) -> None:
    """Check that no module does more than its `forward`.

    Raises:
        NotConvertibleError: one has forward hooks.
    """
    for path, module in network.named_modules():
        hooks = [
            h for h in module._forward_pre_hooks.values() if not isinstance(h, COMPUTING_HOOKS)
        ]
        if (hooks or module._forward_hooks) and not is_unsized(module):
            why = "has forward hooks, which conversion leaves out; remove them"
            raise refusal(path, module, why)


def refusal(path: str, module: object, why: str) -> NotConvertibleError:
    """The error that names a module."""
    kind = type(module).__name__
    return NotConvertibleError(f"layer '{path}' ({kind}): {why}" if path else f"{kind}: {why}")


def remedy_of(module: object) -> str:
    """Return the remedy for a module that does not convert."""
    names = {kind.__name__ for kind in type(module).__mro__}
    for kinds, remedy in REMEDIES.items():
        if names & set(kinds.split()):
            return remedy
    of_torch = [kind for kind in KINDS[1:] if kind.__module__.startswith("torch.")]
    known = ", ".join(kind.__name__ for kind in of_torch)
    return f"has no spiking counterpart; a network can hold {known}"


def remedy_of_function(name: str) -> str:
    """Return the remedy for a function or method that does not convert."""
    for names, remedy in FUNCTIONS.items():
        if name in names.split():
            return remedy
    for classes, remedy in REMEDIES.items():
        if CLASSES.get(name) in classes.split():
            return remedy
    return "which has no spiking counterpart; leave it out, or apply it outside of the network"


def settled(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The module itself, or a plain one of its kind if its weight or bias is computed.

    Args:
        module: a synapse or norm; it is unchanged.
        kind: its class without the computation, one of `ARGUMENTS`.
    """
    if all(name in module._parameters for name in COMPUTED):
        return module
    arguments = {name: getattr(module, name) for name in ARGUMENTS[kind]}
    plain, training = kind(**arguments, device="meta"), module.training
    module.eval()  # spectral norm would go on with its iteration
    with torch.no_grad():
        for hook in module._forward_pre_hooks.values():
            hook(module, None)  # the old kinds compute when they are called
        for name in COMPUTED:
            value = getattr(module, name)
            setattr(plain, name, None if value is None else nn.Parameter(value.detach().clone()))
    for name in plain._buffers:
        plain._buffers[name] = module._buffers[name]
    module.train(training)
    return plain.train(training)


def is_unsized(module: nn.Module) -> bool:
    """Whether a lazy module has not seen an input yet."""
    return any(is_lazy(p) for p in module._parameters.values() if p is not None)
