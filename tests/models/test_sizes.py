from types import SimpleNamespace

import pytest
from support.llama_like import llama_like
from torch import nn

from pilot.errors import PilotError
from pilot.models.sizes import ModelSizes
from pilot.models.transformer import ModelConfig, PilotTransformer


def model_with(**config) -> nn.Module:
    model = nn.Module()
    model.config = SimpleNamespace(**config)
    return model


def test_sizes_are_read_by_the_pilots_names():
    model = PilotTransformer(ModelConfig(n_layers=3, n_heads=2, d_model=8, d_mlp=5, context=9, vocab_size=7))
    assert ModelSizes.of(model) == ModelSizes(n_layers=3, n_heads=2, head_dim=4, vocab_size=7, context=9)


def test_sizes_are_read_by_the_names_of_hugging_face_configs():
    assert ModelSizes.of(llama_like()) == ModelSizes(n_layers=3, n_heads=4, head_dim=5, vocab_size=17, context=10)
    without = model_with(num_hidden_layers=1, num_attention_heads=2, hidden_size=6, vocab_size=5)
    assert ModelSizes.of(without) == ModelSizes(n_layers=1, n_heads=2, head_dim=3, vocab_size=5, context=None)


@pytest.mark.parametrize("config", [{"hidden_size": 6}, {"vocab_size": 5}])
def test_a_config_that_does_not_say_them_is_refused(config):
    with pytest.raises(PilotError, match="does not say the size of a head or of the vocabulary"):
        ModelSizes.of(model_with(num_hidden_layers=1, num_attention_heads=2, **config))
