"""The mix of a model's layers against NumPy, ALBERT's size against transformers, words into pieces."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import kdzoo.models
from kdzoo.errors import KdzooError
from kdzoo.models import albert_parameters
from kdzoo.models.inputs import LayerMix
from kdzoo.tasks.pieces import token_ids, tokenizer_pieces


def in_numpy(hidden, weight, gamma, layer_norm):
    if layer_norm:
        mean = hidden.mean(-1, keepdims=True)
        hidden = (hidden - mean) / np.sqrt(((hidden - mean) ** 2).mean(-1, keepdims=True) + 1e-5)
    shares = np.exp(weight - weight.max())
    shares /= shares.sum()
    return gamma * np.einsum("l,lbsd->bsd", shares, hidden)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_layers_are_mixed(layer_norm, listed):
    torch.manual_seed(0)
    hidden = torch.randn(4, 2, 3, 5, dtype=torch.float64) * 3 + 1
    mix = LayerMix(4, 5, layer_norm=layer_norm).double()
    assert {name: tuple(p.shape) for name, p in mix.named_parameters()} == {"weight": (4,), "gamma": ()}
    inputs = list(hidden) if listed else hidden
    start = in_numpy(hidden.numpy(), np.zeros(4), 1.0, layer_norm)
    np.testing.assert_allclose(mix(inputs).detach(), start, rtol=1e-12)
    with torch.no_grad():
        mix.weight.copy_(torch.tensor([0.3, -2.0, 5.0, 0.0]))
        mix.gamma.fill_(-1.7)
    expected = in_numpy(hidden.numpy(), mix.weight.detach().numpy(), -1.7, layer_norm)
    np.testing.assert_allclose(mix(inputs).detach(), expected, rtol=1e-12)


def test_the_mix_learns_and_stays_in_its_precision():
    mix = LayerMix(3, 4, affine=True, dropout=0.2)
    assert set(dict(mix.named_parameters())) == {"weight", "gamma", "norm.weight", "norm.bias"}
    hidden = torch.randn(3, 2, 2, 4)
    mix(hidden).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mix.parameters())
    torch.testing.assert_close(mix.eval()(hidden), mix(hidden))
    double = LayerMix(3, 4).double()
    assert torch.autograd.gradcheck(double, (torch.randn(3, 1, 2, 4, dtype=torch.float64, requires_grad=True),))
    assert LayerMix(3, 4, layer_norm=False)(hidden.bfloat16()).dtype == torch.bfloat16


def test_what_cannot_be_mixed():
    mix = LayerMix(3, 4)
    for hidden in (torch.zeros(2, 1, 1, 4), torch.zeros(3, 1, 1, 5), [torch.zeros(1, 1, 4)] * 2):
        with pytest.raises(KdzooError, match="expected 3 layers"):
            mix(hidden)
    for arguments in ({"num_layers": 0, "width": 4}, {"num_layers": 3, "width": 4.0}):
        with pytest.raises(KdzooError, match="whole number"):
            LayerMix(**arguments)
    with pytest.raises(KdzooError, match="affine"):
        LayerMix(3, 4, layer_norm=False, affine=True)
    with pytest.raises(KdzooError, match="dropout"):
        LayerMix(3, 4, dropout=1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_hidden_groups": 2, "num_hidden_layers": 4},
        {"num_hidden_groups": 3, "inner_group_num": 2, "hidden_size": 24, "num_attention_heads": 3},
        {"embedding_size": 7, "vocab_size": 101, "max_position_embeddings": 33, "type_vocab_size": 5},
        {"intermediate_size": 17, "num_hidden_layers": 1},
    ],
)
def test_alberts_parameters_are_counted(changes):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "embedding_size": 8, "hidden_size": 16, "intermediate_size": 32}
    config = transformers.AlbertConfig(**{**sizes, "num_attention_heads": 4, "num_hidden_layers": 3, **changes})
    expected = sum(parameter.numel() for parameter in transformers.AlbertModel(config).parameters())
    assert albert_parameters(config) == expected
    assert albert_parameters(config.to_dict()) == expected


def test_albert_base_has_the_published_size():
    assert albert_parameters({"vocab_size": 30000, "hidden_size": 768, "intermediate_size": 3072}) == 11_683_584
    assert kdzoo.models.albert_parameters is albert_parameters
    for bad in ({"vocab_size": 30000, "hidden_size": 768}, {"vocab_size": 0, "hidden_size": 1, "intermediate_size": 1}):
        with pytest.raises(KdzooError, match="whole number"):
            albert_parameters(bad)


class Tokenizer:
    """A tokenizer of two characters a piece, the first with the space before it where ``lead`` says so."""

    cls_token_id, sep_token_id = 101, None

    def __init__(self, lead=""):
        self.lead = lead

    def tokenize(self, text):
        words = text.split(" ")
        marked = [word if not at else self.lead + word for at, word in enumerate(words)]
        return [word[at : at + 2] for word in marked for at in range(0, len(word), 2)]

    def convert_tokens_to_ids(self, tokens):
        return [math.prod(map(ord, token)) for token in tokens]


def test_words_into_the_pieces_of_a_tokenizer():
    assert tokenizer_pieces(Tokenizer())("abc") == ["ab", "c"]
    assert tokenizer_pieces(Tokenizer("Ġ"))("abc") == ["Ġa", "bc"]
    cut = tokenizer_pieces(Tokenizer())
    cut("abc").append("changed by its caller")
    assert cut("abc") == ["ab", "c"]
    tokenizer = Tokenizer()
    with pytest.raises(KdzooError, match=r"no \[SEP\]"):
        token_ids(["[CLS]"], tokenizer)
    tokenizer.sep_token_id = 102
    assert token_ids(["[CLS]", "a", "[SEP]"], tokenizer) == [101, ord("a"), 102]
