"""Conversion of all layers at once: what the paper compares progressive tandem learning with."""

from spikesep.spiking.conversion.ptl import ProgressiveTandemLearning
from spikesep.spiking.conversion.threshold import ThresholdChoice


class AllAtOnce(ProgressiveTandemLearning):
    """All layers converted at once and, if at all, trained together in one stage.

    The paper compares with this: with the gradient `relu` it is end-to-end tandem learning, with
    `surrogate` learning through time, and without epochs rate-based conversion. Norms go on
    learning and are folded at the end.
    """

    def _begin(self, stage: int) -> None:
        self.trainer.advance(stage)
        self.choices = [self._choose(index) for index in range(len(self.network))]
        for index, choice in enumerate(self.choices):
            self._convert(index, choice)
        self._open(stage)

    def _convert(self, index: int, choice: ThresholdChoice) -> None:
        threshold = choice.upper_bound / self.coding.n_steps
        self.network[index].convert(threshold, self.coding, self.gradient, keep_norm=True)

    def _freeze(self, stage: int) -> None:
        for layer in self.network.layers.values():
            if layer.mode == "tandem":
                layer.freeze()
