"""What losses compare, as objects: which axes a feature has, which layers it is counted by, and which mask it takes."""

from __future__ import annotations

from kdzoo.errors import unknown


class Feature(str):
    """A feature by its name; a string, so that ``"cls"`` is accepted wherever a feature is.

    Attributes:
        by_layer: there is one of it a layer, so that a term maps layers; else there is one a model.
        by_token: it has an axis of tokens, so that both models have to read the same tokens.
        vectors: it is made of vectors of the model's width D, which a projection can bring to another width.
        attention: its layers are attention layers, counted from 0; else hidden states, of which 0 is the embeddings.
        of_decoder: its layers and tokens are the decoder's; else the encoder's.
        cross: its keys and values are of the encoder's tokens, while its queries are of the decoder's.
        kept: the name of the feature it is captured as; ``embedding`` is the hidden state 0.
    """

    by_layer: bool
    by_token: bool
    vectors: bool
    attention: bool
    of_decoder: bool
    cross: bool
    kept: str

    def __new__(
        cls,
        name: str,
        *,
        by_layer: bool = False,
        by_token: bool = False,
        vectors: bool = True,
        attention: bool = False,
        of_decoder: bool = False,
        cross: bool = False,
        kept: str | None = None,
    ) -> Feature:
        made = super().__new__(cls, name)
        made.by_layer, made.by_token, made.vectors, made.attention = by_layer, by_token, vectors, attention
        made.kept = kept or name
        made.of_decoder, made.cross = of_decoder, cross
        return made

    @property
    def layer(self) -> int | None:
        """The layer of a feature that has no others: the embeddings' output is hidden state 0."""
        return 0 if self.kept != self and not self.by_layer else None


LOGITS = Feature("logits", vectors=False)
ORDER = Feature("order", vectors=False)  # what a head says of the order of a row's two segments
HIDDEN = Feature("hidden", by_layer=True, by_token=True)
CLS = Feature("cls", by_layer=True)
POOLED = Feature("pooled", by_layer=True)
EMBEDDING = Feature("embedding", by_token=True, kept="hidden")
DECODER = Feature("decoder", by_layer=True, by_token=True, of_decoder=True)
QKV_OF_LAYER = Feature("qkv", by_layer=True, by_token=True, vectors=False, attention=True)
RAW_QKV = Feature("raw_qkv", by_layer=True, by_token=True, vectors=False, attention=True)
DECODER_QKV = Feature("decoder_qkv", by_layer=True, by_token=True, vectors=False, attention=True, of_decoder=True)
CROSS_QKV = Feature(
    "cross_qkv", by_layer=True, by_token=True, vectors=False, attention=True, of_decoder=True, cross=True
)

_ALL = (LOGITS, ORDER, HIDDEN, CLS, POOLED, EMBEDDING, DECODER, QKV_OF_LAYER, RAW_QKV, DECODER_QKV, CROSS_QKV)
FEATURES: dict[str, Feature] = {feature: feature for feature in _ALL}


def feature_of(name: str) -> Feature:
    """The feature of a name.

    Raises:
        KdzooError: for a name that is none.
    """
    if name not in FEATURES:
        raise unknown("feature", name, FEATURES)
    return FEATURES[name]


def features_of(
    names: tuple[str, ...], extras: frozenset[str] = frozenset(), *, cross_attention: bool = False
) -> dict[str, Feature]:
    """What a loss that names these features works on, by name.

    One on CLS states works on pooled ones too, which are vectors of rows alike, unless it puts them through the
    teacher's head, which reads a CLS state; one on hidden states on a decoder's, which are vectors of tokens alike; and
    one on attention on a decoder's to its own tokens, and where the loss says so (``cross_attention``) to the source's.
    """
    found = {name: feature_of(name) for name in names}
    if CLS in found and "teacher_head" not in extras:
        found.setdefault(POOLED, POOLED)
    if HIDDEN in found and "teacher_head" not in extras:
        found.setdefault(DECODER, DECODER)
    if QKV_OF_LAYER in found:
        found |= {f: f for f in (DECODER_QKV, CROSS_QKV) if cross_attention or not f.cross}
    return found
