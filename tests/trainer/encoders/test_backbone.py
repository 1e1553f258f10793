"""Base models of every kind become encoders that pool as they were made to, and their exports answer alike."""

import numpy as np
import pytest
import torch

from app.scorers.onnx_encoder import EncoderSettings, OnnxEncoder
from tests.pretrained import DIMENSION, NORMALIZE, as_sentence_transformers, bert, qwen
from trainer.encoders.backbone import load_backbone, padded
from trainer.encoders.onnx_export import export_graph
from trainer.spec import SpecInvalid

TEXTS = ("", "手机开不了机", "hello", "我要退货怎么申请" * 3)


def hidden_states(backbone, text):
    ids, mask = padded(backbone.tokens([text]))
    with torch.no_grad():
        return backbone.encoder(input_ids=ids, attention_mask=mask).last_hidden_state[0].numpy()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda hidden: hidden[0]),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, lambda hidden: hidden.mean(axis=0)),
        ({"pooling_mode": "max"}, lambda hidden: hidden.max(axis=0)),
        ({"pooling_mode": "lasttoken"}, lambda hidden: hidden[-1]),
    ],
)
def test_pooling_and_length_are_those_of_the_folder(tmp_path, config, expected):
    backbone = load_backbone(as_sentence_transformers(bert(tmp_path), config, NORMALIZE), max_length=24)

    for text, embedding in zip(TEXTS, backbone.embed(TEXTS), strict=True):
        wanted = expected(hidden_states(backbone, text))
        assert embedding == pytest.approx(wanted / np.linalg.norm(wanted), abs=1e-5)


def test_a_plain_encoder_takes_the_mean_and_a_decoder_its_last_token(tmp_path):
    encoder = load_backbone(bert(tmp_path / "bert"), max_length=24)
    decoder = load_backbone(qwen(tmp_path / "qwen"), max_length=24)

    assert encoder.embed(TEXTS)[1] == pytest.approx(hidden_states(encoder, TEXTS[1]).mean(axis=0), abs=1e-5)
    assert decoder.embed(TEXTS)[1] == pytest.approx(hidden_states(decoder, TEXTS[1])[-1], abs=1e-5)
    [empty] = decoder.tokens([""])
    assert empty == [0], "a decoder's empty text is its end token"


@pytest.mark.parametrize("make", [bert, qwen])
def test_the_export_answers_as_torch_does_and_is_the_same_each_time(tmp_path, make):
    backbone = load_backbone(make(tmp_path), max_length=24)

    graph = export_graph(backbone)

    settings = EncoderSettings(24, DIMENSION, alone=False, precision="fp32")
    served = OnnxEncoder(settings, graph, backbone.tokenizer)
    assert served.embed(TEXTS) == pytest.approx(backbone.embed(TEXTS), abs=1e-5)
    assert graph == export_graph(load_backbone(tmp_path, max_length=24))


def test_what_comes_after_the_encoder_and_is_not_honoured_is_refused(tmp_path):
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    folder = as_sentence_transformers(bert(tmp_path), {"pooling_mode": "mean"}, dense)

    with pytest.raises(SpecInvalid, match="'Dense'"):
        load_backbone(folder, max_length=24)
    as_sentence_transformers(folder, {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True})
    with pytest.raises(SpecInvalid, match="pools in a way"):
        load_backbone(folder, max_length=24)


def test_damaged_weights_and_a_missing_tokenizer_are_one_sentence(tmp_path):
    folder = bert(tmp_path)
    tokenizer = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(b"{")
    with pytest.raises(SpecInvalid, match="no tokenizer"):
        load_backbone(folder, max_length=24)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(SpecInvalid, match="cannot be loaded"):
        load_backbone(folder, max_length=24)
