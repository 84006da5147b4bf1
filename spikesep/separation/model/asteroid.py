"""A separator as one of asteroid's models, for its `separate`, overlap-add, commands: all that take a `BaseModel`."""

from dataclasses import asdict
from typing import Any

import torch
from asteroid.models import BaseModel, register_model
from torch import Tensor

from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.hub import find_model
from spikesep.separation.model.separator import Separator, load_separator


class SpikeSepModel(BaseModel):
    """A separator, analog or spiking, that asteroid's tools know.

    Args:
        conversion: what of it is converted, as `SpikingNetwork.conversion_settings` says; None: nothing.
        **config: the separator's sizes, those of `SeparatorConfig`.
    """

    def __init__(self, conversion: dict[str, Any] | None = None, **config):
        separator = Separator(SeparatorConfig(**config))
        separator.network.restore_conversion(conversion or separator.network.conversion_settings())
        # None: asteroid then leaves the shape to `forward`; with 1 its `separate` takes no [T], and no batch [B, T].
        super().__init__(sample_rate=separator.sample_rate, in_channels=None)
        self.separator = separator
        self.eval()

    @classmethod
    def of(cls, separator: Separator) -> "SpikeSepModel":
        """A copy of a separator; of a `Model`, give its `separator`."""
        model = cls(separator.network.conversion_settings(), **asdict(separator.config))
        model.separator.load_state_dict(separator.state_dict())
        return model

    @classmethod
    def from_pretrained(
        cls, pretrained_model_conf_or_path: Any = None, *args, **kwargs
    ) -> "SpikeSepModel":
        """From what `serialize` gave, or whatever `spikesep.load_model` takes: a folder, a file, a name.

        asteroid would unpickle a file; this does not.

        Raises:
            SpikeSepError: there is no such model, or it was changed.
        """
        if isinstance(pretrained_model_conf_or_path, dict):
            return super().from_pretrained(pretrained_model_conf_or_path, *args, **kwargs)
        return cls.of(load_separator(find_model(pretrained_model_conf_or_path)))

    def forward(self, wav: Tensor) -> Tensor:
        """Voices [B, n_speakers, T] of mixtures [B, T] or [B, 1, T]; [n_speakers, T] of one mixture [T].

        Raises:
            ValueError: `wav` has another shape; average or choose channels before.
        """
        if wav.ndim == 3 and wav.shape[1] == 1:
            wav = wav[:, 0]
        if wav.ndim not in (1, 2) or not wav.shape[-1]:
            raise ValueError(
                f"a mixture is [T], [B, T] or [B, 1, T] and not empty; this one is {list(wav.shape)}"
            )
        estimates = self.separator(torch.atleast_2d(wav).float())
        return estimates[0] if wav.ndim == 1 else estimates

    def serialize(self) -> dict[str, Any]:
        """As asteroid's; versions are plain strings, for `torch.load` takes no other objects unless told to."""
        conf = super().serialize()
        versions = conf["infos"]["software_versions"]
        conf["infos"]["software_versions"] = {
            name: str(version) for name, version in versions.items()
        }
        return conf

    def get_model_args(self) -> dict[str, Any]:
        """What the constructor takes, for JSON."""
        return {
            "conversion": self.separator.network.conversion_settings(),
            **asdict(self.separator.config),
        }


register_model(SpikeSepModel)
