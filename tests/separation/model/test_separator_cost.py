from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model.separator_cost import decoder_operations, encoder_operations
from spikesep.spiking.cost import Operations


def test_encoder_and_decoder_are_counted_as_by_hand():
    config = SeparatorConfig(n_filters=8, kernel_size=4, n_speakers=2)
    # 9 samples fill 5 strides of 2; with a stride on either side, 6 frames.
    assert encoder_operations(config, 9) == Operations(6 * 8 * (4 + 3), 6 * 8 * (4 + 4))
    assert decoder_operations(config, 9) == Operations(6 * 2 * 8 * (1 + 4), 6 * 2 * 8 * 4)
