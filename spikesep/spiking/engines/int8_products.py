"""Products of uint8 inputs and int8 weights with exact int32 sums, on processors that have them."""

from dataclasses import dataclass

import numpy as np

from spikesep.compilation import has
from spikesep.spiking.engines import int8_kernels
from spikesep.spiking.engines.int8_kernels import AVX2, FOUR, VNNI, Shape
from spikesep.spiking.spike_trains import kernels

MOST_INPUT = 255  # inputs are uint8
GRAIN = 48  # positions that a thread takes at least


def instruction_set() -> str:
    """The products that loops are compiled for here: "vnni", "avx2", or "" for neither."""
    return "vnni" if has("avx512vnni") else "avx2" if has("avx2") else ""


@dataclass(frozen=True)
class Int8Weights:
    """Weights in the order in which products read them.

    Attributes:
        tiles: int32 (VNNI) or int8 (AVX2), [tiles, taps, fours, width] or, as int8, the same with
            four more.
        run: fours of AVX2 whose sums fit 16 bits; 0 for VNNI.
        n_out: output channels.
    """

    tiles: np.ndarray
    run: int
    n_out: int

    @property
    def shape(self) -> Shape:
        """Registers that the product takes."""
        return AVX2 if self.run else VNNI


def pack(weight: np.ndarray, most: int, instructions: str) -> Int8Weights | None:
    """Arrange weights for products with inputs of at most `most`.

    Args:
        weight: [taps, C_in, C_out] int8.
        most: largest input.
        instructions: see `instruction_set`.

    Returns:
        None if no product is exact for them.
    """
    if not instructions or most > MOST_INPUT:
        return None
    n_taps, n_in, n_out = weight.shape
    width = (VNNI if instructions == "vnni" else AVX2).width
    n_tiles, n_fours = -(-n_out // width), -(-n_in // FOUR)
    padded = np.zeros((n_taps, n_fours * FOUR, n_tiles * width), np.int8)
    padded[:, :n_in, :n_out] = weight
    tiles = padded.reshape(n_taps, n_fours, FOUR, n_tiles, width)
    tiles = np.ascontiguousarray(tiles.transpose(3, 0, 1, 4, 2))
    if instructions == "vnni":
        return Int8Weights(tiles.view(np.int32)[..., 0], 0, n_out)
    run = longest_run(tiles, most)
    return Int8Weights(tiles, run, n_out) if run else None


def longest_run(tiles: np.ndarray, most: int) -> int:
    """The largest number of fours, a power of two, whose sums of products fit int16 for any inputs.

    Each half of a four has a sum of its own, and runs begin at multiples of their length.

    Args:
        tiles: [tiles, taps, fours, width, 4] int8.
        most: largest input.

    Returns:
        0 if not even two products fit.
    """
    halves = tiles.reshape(*tiles.shape[:4], 2, 2).astype(np.int64)
    up, down = halves.clip(min=0).sum(-1) * most, halves.clip(max=0).sum(-1) * most
    n_fours, best, run = tiles.shape[2], 0, 1
    while True:
        begins = np.arange(0, n_fours, run)
        highest = np.add.reduceat(up, begins, axis=2).max(initial=0)
        lowest = np.add.reduceat(down, begins, axis=2).min(initial=0)
        if highest > np.iinfo(np.int16).max or lowest < np.iinfo(np.int16).min:
            return best
        best = run
        if run >= n_fours:
            return best
        run *= 2


def rows_of_fours(x: np.ndarray) -> np.ndarray:
    """Inputs [rows, C] uint8, with channels of zeros behind them where C is no multiple of 4."""
    missing = -x.shape[1] % FOUR
    return np.ascontiguousarray(np.pad(x, ((0, 0), (0, missing))) if missing else x)


def multiply(weights: Int8Weights, x: np.ndarray, table: np.ndarray, taps: np.ndarray, out):
    """The sums of a synapse for inputs, exact.

    Args:
        weights: see `pack`.
        x: inputs [rows, C_in] uint8, at most as large as the weights are packed for.
        table: rows that reach each position, [positions, n_entries] int32; -1 is silence.
        taps: the tap of each entry, [n_entries] int32.
        out: takes the sums, [positions, C_out] int32.
    """
    given = (rows_of_fours(x), table, taps, weights.tiles, weights.run, weights.shape.rows)
    kernels.run(int8_kernels.product, len(out), *given, out, grain=GRAIN)


def fire(
    weights: Int8Weights,
    x: np.ndarray,
    table: np.ndarray,
    taps: np.ndarray,
    gain: np.number,
    initial: np.ndarray,
    threshold: np.ndarray,
    n_steps: int,
    counts: np.ndarray,
) -> None:
    """Spike counts of deferred neurons: how often the threshold fits into what arrives, up to N_s.

    Args:
        weights, x, table, taps: see `multiply`.
        gain: factor from sums to potentials.
        initial: potential before anything arrives, [C_out] int32.
        threshold: [C_out] int32.
        n_steps: N_s, at most 255.
        counts: takes the counts, [positions, C_out] uint8.
    """
    given = (rows_of_fours(x), table, taps, weights.tiles, weights.run, weights.shape.rows)
    neurons = (gain, initial, threshold, n_steps)
    kernels.run(int8_kernels.fire_counts, len(counts), *given, *neurons, counts, grain=GRAIN)
