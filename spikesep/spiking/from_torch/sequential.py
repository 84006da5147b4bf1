"""From an `nn.Sequential` to convertible layers: what is accepted, what is refused, and why.

A module is accepted only if its computation is known: it is an instance of one of the torch classes
in `KINDS` and runs the `forward` of that class. Nested Sequentials are opened. A module is named by
its path, as `network.get_submodule` takes it.
"""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from spikesep.spiking.folding import NORMS
from spikesep.spiking.from_torch.equivalence import require_same
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import NotConvertibleError, SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.synapses.kinds import NO_OPS, SYNAPSES

MAPS = (nn.Flatten, nn.AvgPool1d, nn.AvgPool2d)
KINDS = (nn.Sequential, *SYNAPSES, *NORMS, nn.ReLU, *MAPS, *NO_OPS)
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
    nn.BatchNorm1d: _NORM,
    nn.BatchNorm2d: _NORM,
}
"""Constructor arguments that give a module of the same computation."""

Part = TypeVar("Part", SpikingLayer, Readout)
_AGAIN = "take ReLU and train again"
_OUTSIDE = "take ReLU inside the stack; {} may follow the readout, outside of it"
REMEDIES = {
    "MaxPool1d AdaptiveMaxPool1d": "take AvgPool1d or a stride",
    "MaxPool2d AdaptiveMaxPool2d": "take AvgPool2d or a stride",
    "AdaptiveAvgPool1d": "take AvgPool1d with the window that this has on your inputs",
    "AdaptiveAvgPool2d": "take AvgPool2d with the window that this has on your inputs",
    "ReLU6 Hardtanh": f"{_AGAIN}: conversion bounds activations by itself",
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
        "is a wrapper; give the Sequential inside it, its .module"
    ),
    "OptimizedModule": "is compiled; give the Sequential that was compiled, its ._orig_mod",
    "ModuleList list tuple": "give the modules in one nn.Sequential(*modules)",
}
"""By class names."""


def from_sequential(network: nn.Sequential, example: Tensor | None = None) -> SpikingNetwork:
    """Make a spiking network, still analog, of an `nn.Sequential`.

    Its last synapse, which has no ReLU, becomes the readout. Weights are taken as they are, not
    copied; weights that are computed (weight norm, pruning masks) are taken at their present value.
    Both networks are run once to check that they compute the same.

    Args:
        network: Linear, Conv1d, Conv2d, ConvTranspose1d, batch norm, ReLU, average pooling, Flatten
            and modules that do nothing in inference; Sequentials may be nested.
        example: an input for that run, [batch, ...]; None makes one up that fits the layers.

    Raises:
        NotConvertibleError: a module has no spiking counterpart or computes something of its own;
            the message names it by its path.
    """
    spiking = SpikingNetwork(*group(network))
    spiking.require_float32()
    require_same(network, spiking, example)
    return spiking


def group(network: nn.Sequential) -> tuple[dict[str, SpikingLayer], Readout]:
    """Group the modules of a Sequential into layers, by name in order, and the readout.

    Where weight norm, pruning or a parametrization computes a weight, a plain module with its
    present value is used.

    Raises:
        NotConvertibleError: a module or the order of modules has no spiking counterpart.
    """
    require_known("", network)
    grouping = _Grouping()
    for path, module in _walk(network):
        grouping.add(path, module)
    return grouping.finish()


def require_known(path: str, module: object) -> type[nn.Module]:
    """The torch class whose computation a module does.

    Raises:
        NotConvertibleError: there is none; names `path`, or the network if it is empty.
    """
    kind = next((kind for kind in KINDS if isinstance(module, kind)), None)
    is_network = isinstance(module, nn.Module)
    if kind is None or not is_network or (not path and kind is not nn.Sequential):
        raise refusal(path, module, _remedy(module, is_part=bool(path)))
    changed = any(
        getattr(type(module), name, None) is not getattr(kind, name, None) or name in vars(module)
        for name in METHODS
    )
    if changed:
        why = "its own forward() does what conversion would leave out"
        raise refusal(path, module, f"{why}; take {kind.__name__} itself, or write it as modules")
    hooks = [h for h in module._forward_pre_hooks.values() if not isinstance(h, COMPUTING_HOOKS)]
    if (hooks or module._forward_hooks) and not _is_lazy(module):
        raise refusal(path, module, "has forward hooks, which conversion leaves out; remove them")
    return kind


def refusal(path: str, module: object, why: str) -> NotConvertibleError:
    """The error that names a module."""
    kind = type(module).__name__
    return NotConvertibleError(f"layer '{path}' ({kind}): {why}" if path else f"{kind}: {why}")


class _Grouping:
    """The layers found so far, and the parts of the one being read."""

    def __init__(self):
        self.layers: dict[str, SpikingLayer] = {}
        self.seen: set[nn.Module] = set()
        self.begin([])

    def begin(self, before: list[tuple[str, nn.Module]]) -> None:
        """Start the next layer, with these maps before its synapse."""
        self.before = before
        self.behind: list[tuple[str, nn.Module]] = []  # the synapse, but before its ReLU
        self.synapse: tuple[str, nn.Module] | None = None
        self.norm: nn.Module | None = None

    def add(self, path: str, module: nn.Module) -> None:
        """Take the next module; containers are opened already."""
        kind = require_known(path, module)
        if kind in ARGUMENTS:
            module = self._own(path, module, kind)
        if kind in SYNAPSES:
            if self.synapse is not None:
                before = f"follows synapse '{self.synapse[0]}' without a ReLU between"
                raise refusal(path, module, f"{before}; merge the two")
            self.synapse = path, module
        elif kind in NORMS:
            if self.synapse is None or self.norm is not None or self._moved():
                why = "a batch norm must stand right behind its Linear or Conv layer"
                raise refusal(path, module, why)
            self.norm, self.behind = module, []  # dropout in between does nothing in inference
        elif kind is nn.ReLU:
            self._end_layer(path, module)
        elif kind is not nn.Identity:
            (self.before if self.synapse is None else self.behind).append((path, module))

    def finish(self) -> tuple[dict[str, SpikingLayer], Readout]:
        """The layers and the readout: the last synapse, which has no ReLU."""
        if self.synapse is None or self.norm is not None:
            raise NotConvertibleError(
                "the network must end in a Linear or Conv layer without norm and ReLU: the readout"
            )
        for path, module in self._moved():
            why = "stands behind the readout; apply it to the network's output, outside of it"
            raise refusal(path, module, why)
        if not self.layers:
            raise NotConvertibleError(
                "the network has a readout alone; put a Linear or Conv layer with ReLU before it"
            )
        path, synapse = self.synapse
        return self.layers, self._make(Readout, path, synapse, self._maps())

    def _own(self, path: str, module: nn.Module, kind: type[nn.Module]) -> nn.Module:
        """A synapse or norm that occurs once, with weights of its own."""
        if module in self.seen:
            raise refusal(path, module, "its weights are used twice; give each layer its own")
        self.seen.add(module)
        if _is_lazy(module):
            raise refusal(path, module, "has no sizes yet; run the network once")
        return settled(module, kind)

    def _end_layer(self, path: str, module: nn.Module) -> None:
        if self.synapse is None:
            raise refusal(path, module, "a ReLU must stand behind a Linear or Conv layer")
        for moved, culprit in self._moved():
            raise refusal(moved, culprit, "move it behind the ReLU")
        name, synapse = self.synapse
        layer = self._make(SpikingLayer, name, synapse, self.norm, self._maps())
        self.layers[_layer_name(name, self.layers)] = layer
        self.begin(self.behind)  # dropout before a ReLU is the same as behind it

    def _make(self, part: type[Part], path: str, synapse: nn.Module, *others) -> Part:
        try:
            return part(synapse, *others)
        except ValueError as error:
            raise refusal(path, synapse, str(error)) from error

    def _moved(self) -> list[tuple[str, nn.Module]]:
        """Maps that stand between a synapse and its ReLU."""
        return [(path, module) for path, module in self.behind if isinstance(module, MAPS)]

    def _maps(self) -> nn.Sequential | None:
        return nn.Sequential(*(module for _, module in self.before)) if self.before else None


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


def _walk(container: nn.Sequential, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """All modules in order with their paths, Sequentials opened.

    `named_modules` would omit the second occurrence of a module.
    """
    for key, module in container._modules.items():
        if isinstance(module, nn.Sequential):
            require_known(f"{path}{key}", module)
            yield from _walk(module, f"{path}{key}.")
        else:
            yield f"{path}{key}", module


def _layer_name(path: str, taken: dict[str, SpikingLayer]) -> str:
    """A name that an `nn.ModuleDict` takes: without dots, and none of its methods'."""
    name = path.replace(".", "/")
    while name in taken or hasattr(nn.ModuleDict, name):
        name += "_"
    return name


def _is_lazy(module: nn.Module) -> bool:
    return any(is_lazy(p) for p in module._parameters.values() if p is not None)


def _remedy(module: object, is_part: bool) -> str:
    names = {kind.__name__ for kind in type(module).__mro__}
    for kinds, remedy in REMEDIES.items():
        if names & set(kinds.split()):
            return remedy
    if not is_part:
        return "is no nn.Sequential, and what its forward() does cannot be seen; write it as one"
    if type(module).__module__.startswith("torch."):
        known = ", ".join(kind.__name__ for kind in KINDS[1:])
        return f"has no spiking counterpart; the stack can hold {known}"
    return (
        "its forward() hides what it does; write it as Linear/Conv, batch norm and ReLU modules in "
        "one Sequential"
    )
