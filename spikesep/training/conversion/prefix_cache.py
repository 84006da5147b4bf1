"""Spikes of the frozen layers, computed once per stage and kept in memory or on disk."""

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from spikesep.files import explain_full_disk
from spikesep.spiking.network import Cut
from spikesep.spiking.signal import Signal, SpikeTrains
from spikesep.spiking.spike_trains.cache import SpikeCache
from spikesep.spiking.wiring.wires import INPUT
from spikesep.training.config import CacheConfig
from spikesep.training.conversion.examples import Batches, SetName
from spikesep.training.conversion.model import ConvertibleModel
from spikesep.training.timing.progress import Progress

Storage = Literal["memory", "disk"]


class PrefixCache:
    """Signals behind the frozen layers of a network, from cached spikes where they fit.

    Only the spikes that later layers read are kept: those of the last frozen layer or, along
    identity paths and shortcuts, of several.

    Args:
        model: the model that is being converted.
        batches: the examples.
        config: limits of memory and disk space.
        folder: folder for spikes on disk; None to use memory only.
        progress: display of the passes through frozen layers.
    """

    def __init__(
        self,
        model: ConvertibleModel,
        batches: Batches,
        config: CacheConfig,
        folder: Path | None,
        progress: Progress,
    ):
        self.model = model
        self.batches = batches
        self.folder = folder
        self.progress = progress
        self.limits: dict[Storage, float] = {
            "memory": config.memory_gib,
            "disk": config.disk_gib if folder else 0.0,
        }
        self.clear()

    def clear(self) -> None:
        """Discard all spikes; no layer counts as frozen."""
        self.n_frozen = 0
        self._caches: dict[SetName, dict[str, SpikeCache] | None] = {"train": {}, "valid": {}}

    def signals(self, name: SetName, indices: list[int], features: Tensor, stage: int) -> Cut:
        """Return what passes behind layers 0..stage-1.

        Args:
            name: the data set.
            indices: examples of the batch.
            features: the network's input for the batch.
            stage: number of layers to pass.
        """
        caches, network = self._caches[name], self.model.network
        if not caches:
            return network.propagate(features, 0, stage)
        signals = {layer: Signal(trains=(cache.get(indices),)) for layer, cache in caches.items()}
        signals[INPUT] = Signal(features)
        return network.propagate(signals, self.n_frozen, stage)

    def advance(self, stage: int, title: str, n_train: int | None = None) -> None:
        """Run the examples through the layers frozen since the last call, and keep their spikes.

        Args:
            stage: number of frozen layers.
            title: prefix of the progress display.
            n_train: number of training examples to run; None for all.
        """
        limits: dict[SetName, int | None] = {"train": n_train, "valid": None}
        while self.n_frozen < stage:
            for name in get_args(SetName):
                if self._caches[name] is not None:
                    batches = self.batches.in_order(name, limits[name])
                    self.progress.begin(
                        f"{title}, spikes of {name} examples", len(batches), "batches"
                    )
                    self._caches[name] = self._behind(name, batches)
            self.n_frozen += 1

    @torch.no_grad()
    def _behind(self, name: SetName, batches: list[list[int]]) -> dict[str, SpikeCache] | None:
        """Return the caches behind one more layer; None if they do not fit."""
        caches, network, index = self._caches[name] or {}, self.model.network, self.n_frozen
        cache: SpikeCache | None = None
        for indices in batches:
            x, _ = self.batches.fetch(name, indices)
            self.progress.advance()
            features, _ = self.model.encode(x)
            signals = self.signals(name, indices, features, index)
            (trains,) = network[index](*network.arriving(signals, index)).trains
            if cache is None and (cache := self._allocated(name, trains)) is None:
                return None
            cache.put(indices, trains)
        if cache is not None:
            caches = caches | {network.names[index]: cache}
        return {layer: caches[layer] for layer in caches if network.is_read(layer, index + 1)}

    def _allocated(self, name: SetName, trains: SpikeTrains) -> SpikeCache | None:
        """Return an empty cache for the spikes of a layer; None if it does not fit anywhere."""
        n_examples = self.batches.data.size(name)
        storage = self._storage(name, SpikeCache.size(n_examples, trains))
        if storage is None:
            return None
        room: Callable[[tuple[int, ...]], Tensor] | None = None
        if storage == "disk" and self.folder is not None:
            room = partial(unnamed_file_tensor, self.folder)
        return SpikeCache(n_examples, trains, room)

    def _storage(self, name: SetName, n_bytes: int) -> Storage | None:
        """Return where `n_bytes` fit beside the present caches; None, with a notice, if nowhere."""
        of_sets = (caches or {} for caches in self._caches.values())
        caches = [cache for of_set in of_sets for cache in of_set.values()]
        needed: dict[Storage, float] = {}
        for storage, limit in self.limits.items():
            used = sum(c.nbytes for c in caches if c.in_memory == (storage == "memory"))
            needed[storage] = (used + n_bytes) / 2**30
            if needed[storage] <= limit:
                return storage
        print(
            f"spike cache off for the {name} examples: it would need {needed['memory']:.2f} GiB of "
            f"memory or {needed['disk']:.2f} GiB of disk space, the limits are "
            f"{self.limits['memory']:g} GiB (convert.cache.memory_gib) and "
            f"{self.limits['disk']:g} GiB (convert.cache.disk_gib); frozen layers are recomputed "
            "in each step",
            flush=True,
        )
        return None


def unnamed_file_tensor(folder: Path, shape: tuple[int, ...]) -> Tensor:
    """Return a uint8 tensor in an unnamed file in `folder`.

    The disk space is released when the tensor is no longer used or the process ends, however it
    ends.

    Raises:
        SpikeSepError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with explain_full_disk(folder / "spike cache"), TemporaryFile(dir=folder) as file:
        # Writing to a memory map that the disk cannot back kills the process: allocate it now.
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=shape))
