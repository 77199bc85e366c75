"""SoundStream: SEANet, causal, around residual quantization that serves several bitrates.

Source: Zeghidour et al., SoundStream (2021), figure 3 and section III.
"""

from pscodec.models.base import Codec


class SoundStream(Codec):
    """`layers.seanet`'s Encoder and Decoder with three units of dilations 1, 3 and 9 before each stride and no LSTM,
    and a `GroupResidualVQ` of one group whose `dropout` lets any number of codebooks decode."""

    activation = "elu"
