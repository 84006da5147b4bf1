"""A network that runs on frames as they arrive, with outputs equal to those of one pass.

Each layer computes every frame once. What it still reads of the layers before it stays in a buffer
of their spikes; where a layer looks ahead, the layers behind it run that much later.
"""

from functools import lru_cache

import torch
from torch import Tensor

from spikesep.spiking import engines
from spikesep.spiking.engines.prepared import PreparedLayer
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import READOUT, NotConvertibleError, Observer, SpikingNetwork
from spikesep.spiking.signal import Signal
from spikesep.spiking.streaming.frames import FrameBuffer, Part, part_of
from spikesep.spiking.streaming.reach import convolution, reach_of
from spikesep.spiking.synapses.convolution import PartialConvConnectivity
from spikesep.spiking.synaptic import Synaptic
from spikesep.spiking.wiring.wires import INPUT, Wire

OBSERVED_FRAMES = 512
"""Frames that an observer is shown at once: counting the cost of a few takes longer than they."""
Buffers = dict[str, FrameBuffer]


class NetworkStream:
    """One signal on its way through a network of convolutions over frames: `push`, then `flush`.

    Spikes equal those of one pass over the whole signal. So does the cost that an observer counts.

    Args:
        network: the network, in inference mode.
        observe: called for each layer after every `OBSERVED_FRAMES` or more, and by `flush` and
            `settle`, with the frames that the layer read.

    Attributes:
        reach: the frames around an output frame on which it depends.

    Raises:
        NotConvertibleError: a layer does not give one output frame per input frame.
    """

    def __init__(self, network: SpikingNetwork, observe: Observer | None = None):
        if network.tail is not None:
            raise NotConvertibleError("a stream ends at the readout; run the tail behind it")
        self.reach = reach_of(network)
        names = [*network.names, READOUT]
        self._stages = [
            _Stage(name, part, network.wiring[name][0])
            for name, part in zip(names, network.parts, strict=True)
        ]
        self._readers = {
            name: [stage for stage in self._stages if name in (stage.name, *stage.wire.names)]
            for name in (INPUT, *names)
        }
        self._frames: Buffers = {name: FrameBuffer() for name in (INPUT, *names)}
        self._observe = observe
        self._end: int | None = None

    def push(self, x: Tensor) -> Tensor:
        """Take the next input frames, [batch, C, n].

        Returns:
            The potential of the frames that are final, [batch, C_out, m]; m may be 0.

        Raises:
            ValueError: the stream was flushed.
        """
        if self._end is not None:
            raise ValueError("this stream was flushed; open another for another signal")
        if x.shape[-1]:
            with torch.inference_mode():
                self._frames[INPUT].append(Signal(x))
        return self._advance(x, OBSERVED_FRAMES)

    def flush(self, like: Tensor) -> Tensor:
        """End the signal and return the remaining frames of the potential.

        Args:
            like: input frames, of which only batch, number format and device are read.
        """
        self._end = self._frames[INPUT].stop
        return self._advance(like, 1)

    def settle(self) -> None:
        """Show the observer all frames so far."""
        for stage in self._stages:
            stage.show(self._frames, self._end, self._observe, least=1)

    def _advance(self, like: Tensor, least: int) -> Tensor:
        """Run every layer on the frames whose inputs are complete."""
        done = self._stages[-1].position
        with torch.inference_mode():
            for stage in self._stages:
                stage.run(self._frames, self._end)
                stage.show(self._frames, self._end, self._observe, least)
            n = self._stages[-1].position - done
            buffer, n_outputs = self._frames[READOUT], len(self._stages[-1].part.synapse.weight)
            if not n:
                return like.new_zeros(len(like), n_outputs, 0)
            potential = buffer.read(((done, n),)).value.clone()
            self._forget()
        return potential

    def _forget(self) -> None:
        """Drop the frames that no layer reads any more."""
        for name, readers in self._readers.items():
            self._frames[name].forget(min(stage.first for stage in readers))


class _Stage:
    """A layer or the readout, and how far it has come.

    Args:
        name: of the layer.
        part: the layer.
        wire: what it receives.

    Attributes:
        position: number of output frames computed.
        shown: number of them that the observer has seen.
    """

    def __init__(self, name: str, part: Synaptic, wire: Wire):
        self.name, self.part, self.wire = name, part, wire
        self.sizes = convolution(name, part, wire)
        self.position = self.shown = 0
        self._connected = lru_cache(maxsize=2)(part.connected)
        self._block: tuple[PartialConvConnectivity, torch.Size, str] | None = None
        self._prepared: tuple[PreparedLayer, str] | None = None

    @property
    def first(self) -> int:
        """The first input frame that is still read."""
        return self.shown - self.sizes.margins[0][0]

    def run(self, frames: Buffers, end: int | None) -> None:
        """Compute the output frames whose inputs are complete."""
        stop = end
        if stop is None:
            ready = min(frames[name].stop for name in self.wire.names)
            stop = ready - self.sizes.margins[0][1]
        if stop <= self.position:
            return
        reads = part_of(self.sizes, self.position, stop - self.position, end)
        frames[self.name].append(self._output(reads.connectivity, self._arriving(frames, reads)))
        self.position = stop

    def _output(self, connectivity: PartialConvConnectivity, arriving: Signal) -> Signal:
        """The output of the layer, which is laid out anew where the block differs from the last."""
        layer, part = self._layer(connectivity), self.part
        if not isinstance(part, SpikingLayer) or not isinstance(layer, SpikingLayer):
            return layer(arriving)  # the readout
        block = connectivity, arriving.shape, part.engine
        if block != self._block:
            self._block = block
            self._prepared = None
            if layer.fixed is not None:
                self._prepared = engines.prepare(layer.call(), [arriving], part.engine)
        if self._prepared is None:
            out = layer(arriving)
            part.ran_on = layer.ran_on
            return out
        fire, part.ran_on = self._prepared
        return layer.signal_of(fire(arriving))

    def show(self, frames: Buffers, end: int | None, observe: Observer | None, least: int) -> None:
        """Show an observer the frames that it has not seen, if there are as many as `least`."""
        n = self.position - self.shown
        if observe is not None and n >= least:
            reads = part_of(self.sizes, self.shown, n, end)
            layer, arriving = self._layer(reads.connectivity), self._arriving(frames, reads)
            observe(self.name, layer, (arriving,), frames[self.name].read(((self.shown, n),)))
        if observe is None or n >= least:
            self.shown = self.position

    def _layer(self, connectivity: PartialConvConnectivity) -> Synaptic:
        return self._connected(connectivity)

    def _arriving(self, frames: Buffers, reads: Part) -> Signal:
        return self.wire.read({name: frames[name].read(reads.ranges) for name in self.wire.names})
