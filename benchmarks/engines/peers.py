"""Other simulators on the same layers and spikes, each at the fastest settings that we know.

A peer is built from `PlainLayer`s and then maps spikes [N_s, B, C, K] to the counts [B, C, K] of
the last layer. All compute in float32 on integers, so that counts can be compared exactly.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.engines.stack import PlainLayer

Run = Callable[[Tensor], Tensor]


class UnsuitableError(Exception):
    """The installed version of a peer lacks the setting."""


@dataclass(frozen=True)
class Peer:
    """A simulator with a setting.

    Attributes:
        name: name in tables.
        build: returns the function that runs the layers.
        package: module that it needs; empty for torch alone.
        install: command that installs the package.
        devices: where it runs.
        compiles: whether its first run takes minutes.
    """

    name: str
    build: Callable[[Sequence[PlainLayer]], Run]
    package: str = ""
    install: str = ""
    devices: tuple[str, ...] = ("cpu", "cuda")
    compiles: bool = False

    @property
    def is_installed(self) -> bool:
        """Whether its package can be found."""
        try:
            return not self.package or find_spec(self.package) is not None
        except ModuleNotFoundError:  # the package that it is part of
            return False


def plain_loop(layers: Sequence[PlainLayer], compiled: bool = False) -> Run:
    """Loop over steps, then layers, like the paper's reference code."""
    numbers = [_scalars(layer) for layer in layers]

    def step(x: Tensor, potentials: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        new = []
        for layer, (threshold, _), v in zip(layers, numbers, potentials, strict=True):
            v = v + layer.synapse(x)
            x = (v >= threshold).float()
            new.append(v - threshold * x)
        return x, new

    advance = torch.compile(step, dynamic=False) if compiled else step

    def run(spikes: Tensor) -> Tensor:
        shape = (spikes.shape[1], spikes.shape[3])
        potentials = [
            initial.expand(shape[0], layer.synapse.out_channels, shape[1]).contiguous()
            for layer, (_, initial) in zip(layers, numbers, strict=True)
        ]
        count = torch.zeros_like(potentials[-1])
        for x in spikes:
            x, potentials = advance(x, potentials)
            count += x
        return count.int()

    return run


def batched(layers: Sequence[PlainLayer], compiled: bool = False) -> Run:
    """Convolve all steps of a layer at once, then loop over the steps.

    Compiled, the loop over the steps is one kernel.
    """
    numbers = [_scalars(layer) for layer in layers]

    def fire(drive: Tensor, threshold: Tensor, initial: Tensor) -> Tensor:
        v, out = initial, []
        for z in drive:
            v = v + z
            s = (v >= threshold).float()
            v = v - threshold * s
            out.append(s)
        return torch.stack(out)

    fires = torch.compile(fire, dynamic=False) if compiled else fire

    def run(spikes: Tensor) -> Tensor:
        x = spikes
        for layer, (threshold, initial) in zip(layers, numbers, strict=True):
            x = fires(_all_steps(layer.synapse, x), threshold, initial)
        return x.sum(0).int()

    return run


def spikingjelly(layers: Sequence[PlainLayer], backend: str = "", compiled: bool = False) -> Run:
    """Run SpikingJelly in multi-step mode.

    Version 2 takes Triton kernels on an accelerator by itself; earlier versions name a back end.

    Raises:
        UnsuitableError: this version has no such back end.
    """
    from spikingjelly.activation_based import functional, layer, neuron

    names_one = "backend" in inspect.signature(neuron.IFNode.__init__).parameters
    if backend and not names_one:
        raise UnsuitableError("this version chooses its kernels by the device: see multi-step")
    options = {"backend": backend or "torch"} if names_one else {}
    modules: list[nn.Module] = []
    for own in layers:
        node = neuron.IFNode(v_threshold=own.threshold, v_reset=None, step_mode="m", **options)
        if backend and backend not in node.supported_backends:
            raise UnsuitableError(f"this version has no back end {backend}")
        modules += [layer.SeqToANNContainer(own.synapse), node]
    net = nn.Sequential(*modules).eval()
    forward = torch.compile(net, dynamic=False) if compiled else net

    def run(spikes: Tensor) -> Tensor:
        functional.reset_net(net)
        for node, own in zip(net[1::2], layers, strict=True):
            node.v = own.initial
        return forward(spikes).sum(0).int()

    return run


def snntorch(layers: Sequence[PlainLayer], at_once: bool = False) -> Run:
    """Run snnTorch's Leaky neurons without a leak, step by step or behind convolutions of all
    steps.

    They fire above the threshold, not at it. V[0] must have the shape of the input; otherwise
    snnTorch takes it for zero.
    """
    import snntorch

    nodes = [
        snntorch.Leaky(beta=1.0, threshold=own.threshold, reset_mechanism="subtract")
        for own in layers
    ]
    for node, own in zip(nodes, layers, strict=True):
        node.to(own.synapse.weight.device)

    def run_steps(spikes: Tensor) -> Tensor:
        potentials: list[Tensor] = []
        count = 0
        for x in spikes:
            for k, (own, node) in enumerate(zip(layers, nodes, strict=True)):
                z = own.synapse(x)
                if len(potentials) == k:
                    potentials.append(torch.full_like(z, own.initial + own.half))
                x, potentials[k] = node(z, potentials[k])
            count = count + x
        return count.int()

    def run_layers(spikes: Tensor) -> Tensor:
        x = spikes
        for own, node in zip(layers, nodes, strict=True):
            drive = _all_steps(own.synapse, x)
            potential, out = torch.full_like(drive[0], own.initial + own.half), []
            for z in drive:
                s, potential = node(z, potential)
                out.append(s)
            x = torch.stack(out)
        return x.sum(0).int()

    return run_layers if at_once else run_steps


def sinabs(layers: Sequence[PlainLayer], exodus: bool = False) -> Run:
    """Run sinabs' integrate-and-fire layers with one spike per step, or EXODUS' kernels."""
    from sinabs.activation import MembraneSubtract, SingleSpike
    from sinabs.layers import IAF

    nodes = nn.ModuleList(
        IAF(
            spike_threshold=torch.tensor(own.threshold),
            spike_fn=SingleSpike,
            reset_fn=MembraneSubtract(),
            min_v_mem=None,
        )
        for own in layers
    ).to(layers[0].synapse.weight.device)
    if exodus:
        from sinabs.exodus.conversion import sinabs_to_exodus

        nodes = sinabs_to_exodus(nodes)

    def run(spikes: Tensor) -> Tensor:
        x = spikes
        for own, node in zip(layers, nodes, strict=True):
            drive = _all_steps(own.synapse, x).transpose(0, 1)  # [B, N_s, C, K]
            node.init_state_with_shape((drive.shape[0], *drive.shape[2:]))
            node.v_mem.fill_(own.initial)
            x = node(drive).transpose(0, 1)
        return x.sum(0).int()

    return run


def norse(layers: Sequence[PlainLayer]) -> Run:
    """Run norse's box neurons, the only ones with a reset by subtraction.

    They leak: dv = x - v. With v added to their input they integrate. They fire above the
    threshold, not at it.
    """
    from norse.torch import reset_subtract
    from norse.torch.functional.lif_box import (
        LIFBoxFeedForwardState,
        LIFBoxParameters,
        lif_box_feed_forward_step,
    )

    def parameters(own: PlainLayer) -> LIFBoxParameters:
        device = own.synapse.weight.device
        return LIFBoxParameters(
            tau_mem_inv=torch.ones((), device=device),
            v_leak=torch.zeros((), device=device),
            v_th=torch.tensor(own.threshold, device=device),
            method="heaviside",
            reset_method=reset_subtract,
        )

    given = [parameters(own) for own in layers]

    def run(spikes: Tensor) -> Tensor:
        x = spikes
        for own, p in zip(layers, given, strict=True):
            drive = _all_steps(own.synapse, x)
            state, out = torch.full_like(drive[0], own.initial + own.half), []
            for z in drive:
                s, (state,) = lif_box_feed_forward_step(
                    z + state, LIFBoxFeedForwardState(state), p, dt=1.0
                )
                out.append(s)
            x = torch.stack(out)
        return x.sum(0).int()

    return run


def lava(layers: Sequence[PlainLayer]) -> Run:
    """Refuse: the neurons of lava-dl reset to zero, which is another network."""
    raise UnsuitableError("its neurons reset to zero (slayer.neuron.dynamics): other spikes")


def _scalars(layer: PlainLayer) -> tuple[Tensor, Tensor]:
    device = layer.synapse.weight.device
    return (
        torch.tensor(layer.threshold, device=device),
        torch.tensor(layer.initial, device=device),
    )


def _all_steps(synapse: nn.Conv1d, x: Tensor) -> Tensor:
    """Convolve all steps at once, [N_s, B, C, K]."""
    return synapse(x.flatten(0, 1)).unflatten(0, x.shape[:2])


SPIKINGJELLY = {"package": "spikingjelly", "install": "pip install 'spikingjelly==2.0.*'"}
SINABS = {
    "package": "sinabs",
    "install": "pip install --no-deps 'sinabs==3.1.*' 'nir<=1.0.4' nirtorch h5py pbr"
    "  # in an environment without the extra `nir`, which needs a newer nir",
}
SNNTORCH = {"package": "snntorch", "install": "pip install 'snntorch==1.0.*'"}
PEERS = {
    peer.name: peer
    for peer in (
        Peer("SpikingJelly, multi-step", spikingjelly, **SPIKINGJELLY),
        Peer(
            "SpikingJelly, torch.compile",
            partial(spikingjelly, compiled=True),
            compiles=True,
            **SPIKINGJELLY,
        ),
        Peer(
            "SpikingJelly, CuPy",
            partial(spikingjelly, backend="cupy"),
            package="cupy",
            install="pip install 'spikingjelly<2' cupy-cuda12x  # in an environment of its own",
            devices=("cuda",),
        ),
        Peer("snnTorch, step by step", snntorch, **SNNTORCH),
        Peer("snnTorch, steps batched", partial(snntorch, at_once=True), **SNNTORCH),
        Peer("sinabs", sinabs, **SINABS),
        Peer(
            "sinabs, EXODUS",
            partial(sinabs, exodus=True),
            package="sinabs.exodus",
            install="pip install sinabs-exodus  # compiles CUDA",
            devices=("cuda",),
        ),
        Peer("norse", norse, package="norse", install="pip install --no-deps norse nir nirtorch"),
        Peer("lava-dl", lava),
        Peer("plain loop over time", plain_loop),
        Peer("plain loop, torch.compile", partial(plain_loop, compiled=True), compiles=True),
        Peer("float32, steps batched", batched),
        Peer("steps batched, torch.compile", partial(batched, compiled=True), compiles=True),
    )
}
"""All peers by name."""
