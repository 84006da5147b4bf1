"""Algorithmic latency: how long a stream waits for later samples before it returns an estimate."""

from dataclasses import asdict, astuple, dataclass

from spikesep.separation.audio.resampling import Resampler
from spikesep.separation.model.separator import Separator

LIVE_BLOCK_SECONDS, CAUSAL_BLOCK_SECONDS = 0.1, 0.02
"""Lengths of the blocks of a live stream: a network that looks ahead gains little by shorter ones.
The calls for a block cost the same however short it is."""


@dataclass(frozen=True)
class Delays:
    """What the largest delay of an estimate consists of, in seconds of signal.

    Attributes:
        network: later samples on which the network's estimates depend.
        conditioning: later samples from which offset and level are estimated.
        block: waiting until a block of conditioner and network is complete.
        resampling: filters of the conversion to the network's rate and back.
        tracks: later voices from which their speakers are told, if tracks follow them.
        band: later voices that share the band above the network's, if they do.
    """

    network: float
    conditioning: float
    block: float
    resampling: float = 0.0
    tracks: float = 0.0
    band: float = 0.0

    @property
    def total(self) -> float:
        """Their sum; computing time comes on top."""
        return sum(astuple(self))

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON, with the total."""
        return {**asdict(self), "total": self.total}

    def __str__(self) -> str:
        parts = ((name, value) for name, value in asdict(self).items() if value)
        return f"{1e3 * self.total:.0f} ms ({', '.join(f'{n} {1e3 * v:.1f}' for n, v in parts)})"


def delays_of(
    separator: Separator, sample_rate: int | None = None, block_seconds: float | None = None
) -> Delays:
    """Tell the latency of a stream from its network.

    Time steps of neurons take no time of the signal: all steps of a frame are computed when the
    frame has arrived, with immediate and with deferred neurons.

    Args:
        separator: the separator.
        sample_rate: of the recording, Hz; None for that of the network.
        block_seconds: see `block_length`.
    """
    rate = separator.sample_rate
    outer, conditioner = sample_rate or rate, separator.conditioner()
    cell, block = conditioner.cell, block_length(separator, block_seconds)
    # Both begin at the first sample. If the longer one is a multiple, its ends are ends of both.
    waiting = max(cell, block) if max(cell, block) % min(cell, block) == 0 else cell + block
    resamplers = Resampler(outer, rate), Resampler(rate, outer)
    return Delays(
        network=(separator.look_ahead - separator.stride) / rate,
        conditioning=conditioner.look_ahead * cell / rate,
        block=waiting / rate,
        resampling=sum(resampler.latency for resampler in resamplers),
    )


def live_block_seconds(separator: Separator) -> float:
    """Return the length of the blocks of a live stream, unless it is given."""
    return CAUSAL_BLOCK_SECONDS if separator.config.causal else LIVE_BLOCK_SECONDS


def block_length(separator: Separator, seconds: float | None = None) -> int:
    """Return the length of a network's blocks in samples: whole strides, at least one.

    Args:
        separator: the separator.
        seconds: wanted length; None for that of `live_block_seconds`.
    """
    seconds = live_block_seconds(separator) if seconds is None else seconds
    return max(1, round(seconds * separator.sample_rate) // separator.stride) * separator.stride
