"""The mixing procedures, and the functions that a procedure consists of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from spikesep.separation.config import MixingConfig, RecipeConfig
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.mixing import balanced, librimix, wsj0mix
from spikesep.separation.data.mixing.plan import PlannedMixture, Version
from spikesep.separation.data.mixing.simulated import SimulatedProcedure
from spikesep.workers import Workers


class Procedure(Protocol):
    """The interface of a module or an object that implements a procedure."""

    MODES: tuple[str, ...]
    """Length modes; the first is the default."""

    def check_settings(self, config: MixingConfig, counts: Sequence[int]) -> None:
        """Check the settings, given the number of mixtures in each set.

        Raises:
            SpikeSepError: If the procedure does not support them.
        """

    def signal_names(self, n_speakers: int, noisy: bool) -> tuple[str, ...]:
        """Return the folder names of the mixture, the sources, and the noise if there is any."""
        ...

    def output_folder(self, data: Path, n_speakers: int, version: Version, split: str) -> Path:
        """Return the folder in which one version of a set is written."""
        ...

    def plan_set(
        self,
        table: list[Utterance],
        split: str,
        n: int,
        recipe: RecipeConfig,
        data: Path,
        workers: Workers,
    ) -> tuple[list[PlannedMixture], list[str]]:
        """Plan `n` mixtures of a split; return them with notices for the user."""
        ...

    def load_recording(self, path: Path, rates: tuple[int, ...]) -> dict[Any, Any]:
        """Compute everything that mixtures at these rates need of a recording."""
        ...

    def mix(
        self, planned: PlannedMixture, voices: Sequence[dict[Any, Any]], version: Version
    ) -> tuple[dict[str, np.ndarray], tuple[float, ...]]:
        """Return the samples of each signal by name, and the gains of the sources."""
        ...

    def write_lists(
        self,
        data: Path,
        split: str,
        plan: Sequence[PlannedMixture],
        version: Version,
        gains: Sequence[tuple[float, ...]],
    ) -> bool:
        """Write the lists that belong beside the files; return whether any was changed."""
        ...


PROCEDURES: dict[str, Procedure] = {
    "balanced": balanced,
    "wsj0mix": wsj0mix,
    "librimix": librimix,
    "simulated": SimulatedProcedure(in_turns=False),
    "conversation": SimulatedProcedure(in_turns=True),
}
"""The procedures by their names in `mixing.procedure`."""
