"""Spike rasters of the listening page."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from spikesep.spiking.cost import Cost

MAX_RASTER_ROWS, MAX_RASTER_COLUMNS = 128, 1200
"""Largest size of a raster in pixels."""


@dataclass(frozen=True)
class Raster:
    """Spike raster of one layer.

    Attributes:
        number: number of the spiking layer, counted from 1.
        n_layers: number of spiking layers.
        shown: number of neurons in the picture.
        neurons: number of neurons of the layer.
        rate: spikes per neuron and time step.
        picture: PNG file as a data URL.
    """

    number: int
    n_layers: int
    shown: int
    neurons: int
    rate: float
    picture: str


def rasters(counts: dict[str, np.ndarray], cost: Cost) -> list[Raster]:
    """Draw the rasters of the first, the middle and the last spiking layer."""
    n_layers, layers = len(counts), list(counts.values())
    chosen = [k for k in range(n_layers) if is_drawn(k, n_layers)]
    return [
        Raster(
            number=k + 1,
            n_layers=n_layers,
            shown=-(-len(layers[k]) // row_step(layers[k])),
            neurons=len(layers[k]),
            rate=cost.firing_rate[k],
            picture=data_url("image/png", raster_picture(layers[k], cost.n_steps)),
        )
        for k in chosen
    ]


def is_drawn(number: int, n_layers: int) -> bool:
    """Whether a layer has a raster, by its number from 0."""
    return number in (0, n_layers // 2, n_layers - 1)


def row_step(counts: np.ndarray) -> int:
    """Return the distance between neurons of [channels, frames] that are shown."""
    return -(-len(counts) // MAX_RASTER_ROWS)


def raster_picture(counts: np.ndarray, n_steps: int) -> bytes:
    """Draw spike counts [channels, frames] as a PNG with one row per neuron.

    Pixels are black; their opacity is the firing rate to the power of 0.7, so that single spikes
    are visible. Frames that share a column are averaged.
    """
    counts = counts[:: row_step(counts)]
    columns = min(counts.shape[1], MAX_RASTER_COLUMNS)
    starts = np.arange(columns) * counts.shape[1] // columns
    lengths = np.diff(starts, append=counts.shape[1])
    rate = np.add.reduceat(counts, starts, axis=1) / (lengths * n_steps)
    image = Image.fromarray(np.round(15 * rate**0.7).astype(np.uint8), mode="P")
    image.putpalette(bytes(3 * 16))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, bits=4, transparency=bytes(range(0, 256, 17)))
    return buffer.getvalue()


def data_url(content_type: str, content: bytes) -> str:
    """Encode a file as a data URL, so that the page needs no second file."""
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"
