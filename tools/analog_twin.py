"""The analog network with the weights of a spiking separator: ReLU, without rounding or bounds.

python tools/analog_twin.py SNN OUT
"""

from argparse import ArgumentParser
from pathlib import Path

import torch

from spikesep.separation.model.separator import Separator, load_separator, save_separator


def main() -> None:
    """Write the analog twin of a spiking separator."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("snn", type=Path, help="model folder of the spiking separator")
    parser.add_argument("out", type=Path, help="model folder to write")
    options = parser.parse_args()
    save_separator(analog_twin(load_separator(options.snn)), options.out)


def analog_twin(snn: Separator) -> Separator:
    """A separator whose layers are analog and have the weights of spiking ones.

    It computes what the neurons would with infinitely many steps and no largest count. Its norms
    only add the bias, as conversion has folded the network's own into the weights.
    """
    twin = Separator(snn.config)
    for name in ("encoder", "norm", "decoder"):
        getattr(twin, name).load_state_dict(getattr(snn, name).state_dict())
    readout = twin.network.readout.synapse
    readout.load_state_dict(snn.network.readout.synapse.state_dict())
    pairs = zip(snn.network.layers.values(), twin.network.layers.values(), strict=True)
    with torch.no_grad():
        for spiking, analog in pairs:
            weight, norm = spiking.synapse.weight.detach().clone(), analog.norm
            assert norm is not None
            if analog.residual:
                weight -= analog.connectivity.unit_kernel(weight)
            analog.synapse.weight.copy_(weight)
            norm.weight.fill_((1 + norm.eps) ** 0.5)
            norm.bias.copy_(spiking.bias)
    return twin.eval()


if __name__ == "__main__":
    main()
