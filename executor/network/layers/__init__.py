"""The layers a captured network is made of: one class each, listed in `LAYERS`.

To add one: a class here with its box rule, a row in `LAYERS`, a lowering rule in a module of
`obeql.executor.network.lowering`. The last two are no part of a network but put behind it, by
`obeql.executor.network.capture.reading`.
"""

from obeql.executor.network.layers.activation import Activation, Elementwise
from obeql.executor.network.layers.attention import Attention
from obeql.executor.network.layers.base import Layer, Place
from obeql.executor.network.layers.channels import Concat, Pad, SelectChannels
from obeql.executor.network.layers.conv import Conv
from obeql.executor.network.layers.head import Probabilities, YesNo
from obeql.executor.network.layers.image import Image
from obeql.executor.network.layers.linear import Linear
from obeql.executor.network.layers.pointwise import Affine, ChannelMean, ChannelNorm, Clamp, Combine
from obeql.executor.network.layers.pool import AveragePool, MaxPool
from obeql.executor.network.layers.reduce import AdaptivePool, AtenCall, Flatten, GlobalMean, GroupNorm
from obeql.executor.network.layers.tokens import AddMap, SelectPositions, Tokens

__all__ = ["LAYERS", "Elementwise", "Layer", "Place"]

LAYERS: tuple[type[Layer], ...] = (
    Image,
    Conv,
    Linear,
    Affine,
    Clamp,
    Activation,
    Combine,
    ChannelMean,
    ChannelNorm,
    MaxPool,
    AveragePool,
    Concat,
    SelectChannels,
    Pad,
    Tokens,
    AddMap,
    SelectPositions,
    Attention,
    GlobalMean,
    GroupNorm,
    AdaptivePool,
    Flatten,
    AtenCall,
    Probabilities,
    YesNo,
)
