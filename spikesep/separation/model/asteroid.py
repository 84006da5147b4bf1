"""A separator as a model of asteroid, for all of its tools that accept a `BaseModel`."""

from dataclasses import asdict
from typing import Any

import torch
from asteroid.models import BaseModel, register_model
from torch import Tensor

from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.hub import find_model
from spikesep.separation.model.separator import Separator, load_separator


class SpikeSepModel(BaseModel):
    """An analog or spiking separator as an asteroid model.

    Args:
        conversion: conversion state of the network, from `SpikingNetwork.conversion_settings`;
            None for an analog network.
        **config: fields of `SeparatorConfig`.
    """

    def __init__(self, conversion: dict[str, Any] | None = None, **config):
        separator = Separator(SeparatorConfig(**config))
        separator.network.restore_conversion(conversion or separator.network.conversion_settings())
        # With in_channels=None asteroid leaves the shape to `forward`; with 1 its `separate` would
        # reject [T] and [B, T].
        super().__init__(sample_rate=separator.sample_rate, in_channels=None)
        self.separator = separator
        self.eval()

    @classmethod
    def from_separator(cls, separator: Separator) -> "SpikeSepModel":
        """Copy a separator; for a `Model`, pass its `separator`."""
        model = cls(separator.network.conversion_settings(), **asdict(separator.config))
        model.separator.load_state_dict(separator.state_dict())
        return model

    @classmethod
    def from_pretrained(
        cls, pretrained_model_conf_or_path: Any = None, *args, **kwargs
    ) -> "SpikeSepModel":
        """Load the output of `serialize`, or anything that `spikesep.load_model` accepts.

        Unlike asteroid, this does not unpickle files.

        Raises:
            SpikeSepError: the model does not exist, or its checksum does not match.
        """
        if isinstance(pretrained_model_conf_or_path, dict):
            return super().from_pretrained(pretrained_model_conf_or_path, *args, **kwargs)
        return cls.from_separator(load_separator(find_model(pretrained_model_conf_or_path)))

    def forward(self, wav: Tensor) -> Tensor:
        """Separate mixtures [B, T] or [B, 1, T] to [B, n_speakers, T], or [T] to [n_speakers, T].

        Raises:
            ValueError: `wav` has another shape; average or choose channels before.
        """
        if wav.ndim == 3 and wav.shape[1] == 1:
            wav = wav[:, 0]
        if wav.ndim not in (1, 2) or not wav.shape[-1]:
            raise ValueError(
                "a mixture is [T], [B, T] or [B, 1, T] and not empty; this one is "
                f"{list(wav.shape)}"
            )
        estimates = self.separator(torch.atleast_2d(wav).float())
        return estimates[0] if wav.ndim == 1 else estimates

    def serialize(self) -> dict[str, Any]:
        """Serialize like asteroid, with versions as plain strings.

        By default `torch.load` rejects other objects.
        """
        conf: dict[str, Any] = super().serialize()  # type: ignore[assignment]
        versions = conf["infos"]["software_versions"]
        conf["infos"]["software_versions"] = {
            name: str(version) for name, version in versions.items()
        }
        return conf

    def get_model_args(self) -> dict[str, Any]:
        """Return the arguments of the constructor as JSON values."""
        return {
            "conversion": self.separator.network.conversion_settings(),
            **asdict(self.separator.config),
        }


register_model(SpikeSepModel)
