"""The cache of a generating call, and a function's own keys and values in it."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

from refarch.errors import CompositionError


class OwnLayer(DynamicLayer):
    """One more layer of a call's cache: a function's keys and values, [b, heads, tokens, dim].

    Standing in the cache's own list of layers, it is reordered, repeated and cropped together with the base's, so it
    holds the same tokens as they do under beam search and assisted generation.

    Attributes:
        name: of the insertion that it belongs to.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def remember(cache: Cache, name: str, layer: int, layers: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Add the keys and values of the new tokens to an insertion's own, and return those of all tokens so far.

    Args:
        cache: what the base's self-attention has just put the new tokens into.
        name: the insertion's.
        layer: the index of the base's layer in the cache.
        layers: how many layers the base has there; our own come after them.
        keys: [b, heads, t, dim].
        values: [b, heads, t, dim].

    Raises:
        CompositionError: the cache is of a fixed size, or holds tokens that the insertion has not seen.
    """
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    if cache.layers[layer].is_compileable:
        raise CompositionError(
            "a cache of a fixed size (static) has no room for the keys and values of attention that was added",
            "generate with the default dynamic cache",
        )
    while len(cache.layers) < layers and cache.layer_class_to_replicate is not None:  # they come as they are used
        cache.layers.append(cache.layer_class_to_replicate())
    own = next((each for each in cache.layers if isinstance(each, OwnLayer) and each.name == name), None)
    if own is None:
        own = OwnLayer(name)
        cache.layers.append(own)
    keys, values = own.update(keys, values)
    if own.get_seq_length() != cache.get_seq_length(layer):
        raise CompositionError(
            f"the cache holds {cache.get_seq_length(layer)} tokens, of which {name} has seen {own.get_seq_length()}:"
            " it was attached, enabled or disabled while they were generated",
            "generate from the first token on with a new cache",
        )
    return keys, values
