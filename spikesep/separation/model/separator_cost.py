"""Operations of a separator outside its mask network, which the analog and spiking one share."""

from spikesep.separation.config import SeparatorConfig
from spikesep.spiking.cost import Operations


def encoder_operations(config: SeparatorConfig, n_samples: int) -> Operations:
    """Count the encoder and the channel norm for a mixture of n_samples.

    The norm takes three multiplications and four additions per value (mean, centering, square,
    variance, scaling, gain and bias). Its root per frame and the ReLU are not counted.
    """
    n_values = config.n_filters * n_frames(config, n_samples)
    return Operations.macs(n_values * config.kernel_size) + Operations(3.0, 4.0) * n_values


def decoder_operations(config: SeparatorConfig, n_samples: int) -> Operations:
    """Count the products of masks and encoded mixture, and the decoder, without sigmoids."""
    n_values = config.n_speakers * config.n_filters * n_frames(config, n_samples)
    return Operations(n_values, 0.0) + Operations.macs(n_values * config.kernel_size)


def n_frames(config: SeparatorConfig, n_samples: int) -> int:
    """Frames of the encoder, K, for a mixture of n_samples, which is padded by a stride at either
    end and to whole strides.
    """
    stride = config.kernel_size // 2
    n_padded = -(-n_samples // stride) * stride + 2 * stride
    return (n_padded - config.kernel_size) // stride + 1
