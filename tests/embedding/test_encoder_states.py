"""The vectors of an encoder-decoder: the encoder's states of the last token, as transformers' own encoder has them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from raysel.embedding import LastTokenEncoder
from raysel.models.loading import load_causal_lm, load_encoder, load_tokenizer
from tests.small_models import TEXTS, save_tiny_mt5

MIXED = [*TEXTS, TEXTS[0] + TEXTS[2], "a"]


@pytest.mark.parametrize("kind", ["MT5", "T5", "UMT5"])
@pytest.mark.parametrize("layer", [-1, [0, 1, 2]])
def test_they_are_those_of_the_plain_encoder_without_padding(tmp_path: Path, kind: str, layer: int | list[int]) -> None:
    folder = save_tiny_mt5(tmp_path, kind)
    tokenizer = load_tokenizer(folder, "plain")
    plain = getattr(transformers, f"{kind}EncoderModel").from_pretrained(folder).eval()
    found = LastTokenEncoder(load_encoder(folder), tokenizer, layer=layer, threads=2, token_budget=80).encode(MIXED)
    for text, vector in zip(MIXED, found, strict=True):
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            output = plain(ids, output_hidden_states=True)
        if layer == -1:
            expected = output.last_hidden_state[0, -1].numpy()
        else:
            expected = np.stack([output.hidden_states[index][0, -1].numpy() for index in layer])
        np.testing.assert_allclose(vector, expected, atol=2e-6, rtol=1e-5)


def test_the_whole_models_encoder_is_taken(tiny_mt5: Path) -> None:
    tokenizer = load_tokenizer(tiny_mt5, "plain")
    of_encoder, of_whole = (
        LastTokenEncoder(model, tokenizer, threads=1).encode(MIXED)
        for model in (load_encoder(tiny_mt5), load_causal_lm(tiny_mt5))
    )
    np.testing.assert_array_equal(of_encoder, of_whole)
