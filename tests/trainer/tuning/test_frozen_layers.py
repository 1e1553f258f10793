from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.tiny_encoders import bert, qwen2
from trainer.encoders.backbone import Backbone, load_backbone
from trainer.tuning.activation_cache import ActivationCache
from trainer.tuning.embedding import Embedder, like_length_batches, pair_batches
from trainer.tuning.frozen_layers import ROWS, FrozenLayers, Tokens, TooFewLayers, frozen_count


@pytest.fixture(params=[bert, qwen2])
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    """An encoder with absolute positions, and a decoder with rotary ones and a final norm."""
    torch.set_num_threads(1)
    return load_backbone(request.param(tmp_path / "base"), max_length=64)


def texts(count: int, seed: int = 0) -> list[Tokens]:
    rng = np.random.default_rng(seed)
    return [(2, *(int(x) for x in rng.integers(5, 120, rng.integers(1, 30))), 3) for _ in range(count)]


def whole(backbone: Backbone, tokens: Tokens) -> torch.Tensor:
    with torch.no_grad():
        return backbone(torch.tensor([tokens]), torch.ones((1, len(tokens)), dtype=torch.int64))[0]


def test_training_on_activations_gives_the_embeddings_of_the_whole_model(backbone: Backbone) -> None:
    some = texts(40)
    expected = torch.stack([whole(backbone, text) for text in some]).numpy()
    embedder = Embedder(backbone, 2, bf16=False)

    found = embedder.embed_all(embedder.prepared(some))

    np.testing.assert_allclose(found, expected, atol=2e-5)
    # And afterwards the model is as it was.
    np.testing.assert_allclose(whole(backbone, some[0]).numpy(), expected[0], atol=1e-6)


def test_gradients_reach_the_upper_layers_alone(backbone: Backbone) -> None:
    embedder = Embedder(backbone, 2, bf16=False)
    prepared = embedder.prepared(texts(4))
    embedder.embed(prepared, np.arange(4)).sum().backward()

    names = {name for name, weight in backbone.encoder.named_parameters() if weight.grad is not None}
    assert names
    assert all(".2." in f".{name}." or name.startswith("norm") for name in names)


def test_without_frozen_layers_everything_trains(backbone: Backbone) -> None:
    embedder = Embedder(backbone, 0, bf16=False)
    embedder.embed(embedder.prepared(texts(4)), np.arange(4)).sum().backward()

    assert all(weight.grad is not None for weight in backbone.encoder.parameters())


def test_an_activation_does_not_depend_on_the_texts_beside_it(backbone: Backbone) -> None:
    some = texts(2 * ROWS + 3)
    frozen = FrozenLayers(backbone, 2)
    together = frozen.activations(some, torch.float32)

    for text, expected in zip(some, together, strict=True):
        assert torch.equal(frozen.activations([text], torch.float32)[0], expected)


def test_equal_texts_are_computed_once(backbone: Backbone) -> None:
    frozen = FrozenLayers(backbone, 2)
    runs = []
    backbone.encoder.register_forward_hook(lambda *_: runs.append(1))

    frozen.activations([(2, 7, 3)] * 100, torch.float32)

    assert len(runs) == 1


def test_a_third_of_the_layers_trains_unless_told_otherwise(backbone: Backbone) -> None:
    assert frozen_count(backbone.encoder, -1) == 2
    assert frozen_count(backbone.encoder, 0) == 0
    assert frozen_count(backbone.encoder, 1) == 1
    with pytest.raises(TooFewLayers, match="has 3 layers"):
        frozen_count(backbone.encoder, 3)


def test_kept_activations_are_those_of_a_fresh_run_and_spare_it(backbone: Backbone, tmp_path: Path) -> None:
    some = texts(20)
    fresh = FrozenLayers(backbone, 2).activations(some, torch.bfloat16)
    kept = ActivationCache(tmp_path, some)
    FrozenLayers(backbone, 2).activations(some, torch.bfloat16, kept)
    kept.save()
    backbone.encoder.register_forward_hook(lambda *_: pytest.fail("it was computed again"))

    found = FrozenLayers(backbone, 2).activations(some, torch.bfloat16, ActivationCache(tmp_path, some))

    assert all(torch.equal(one, other) for one, other in zip(found, fresh, strict=True))


def test_other_weights_do_not_find_what_was_kept(backbone: Backbone) -> None:
    before = FrozenLayers(backbone, 2).key(torch.float32)
    assert FrozenLayers(backbone, 2).key(torch.bfloat16) != before
    assert FrozenLayers(backbone, 1).key(torch.float32) != before

    with torch.no_grad():
        next(backbone.encoder.parameters())[3, 3] += 1.0

    assert FrozenLayers(backbone, 2).key(torch.float32) != before


def test_upper_weights_do_not_matter_to_what_is_kept(backbone: Backbone) -> None:
    frozen = FrozenLayers(backbone, 2)
    before = frozen.key(torch.float32)
    with torch.no_grad():
        next(weight for weight in backbone.encoder.parameters() if weight.requires_grad).add_(1.0)

    assert frozen.key(torch.float32) == before


def some_states(some: list[Tokens]) -> dict[Tokens, torch.Tensor]:
    return {text: torch.full((len(text), 4), float(len(text))) for text in some}


def test_the_cache_forgets_what_the_batch_no_longer_holds(tmp_path: Path) -> None:
    some = texts(6)
    first = ActivationCache(tmp_path, some)
    first.write("key", some_states(some))
    first.save()

    second = ActivationCache(tmp_path, some[1:])
    assert set(second.read("key", some)) == set(some[1:])
    second.save()

    assert set(ActivationCache(tmp_path, some).read("key", some)) == set(some[1:])


def test_the_cache_keeps_one_set_of_weights(tmp_path: Path) -> None:
    some = texts(3)
    for key in ("old", "new"):
        kept = ActivationCache(tmp_path, some)
        kept.read(key, some)
        kept.write(key, some_states(some))
        kept.save()

    assert [path.name for path in (tmp_path / "activations").iterdir()] == ["new.safetensors"]


def test_a_damaged_or_foreign_cache_is_as_none(tmp_path: Path) -> None:
    some = texts(3)
    kept = ActivationCache(tmp_path, some)
    kept.write("key", some_states(some))
    kept.save()
    [file] = (tmp_path / "activations").iterdir()

    for content in (b"", b"\x80\x04K\x01.", file.read_bytes()[:-9]):
        file.write_bytes(content)
        assert ActivationCache(tmp_path, some).read("key", some) == {}
    kept.write("key", {some[0]: torch.full((len(some[0]), 4), float("nan"))})
    kept.save()
    assert some[0] not in ActivationCache(tmp_path, some).read("key", some)


def test_the_cache_takes_no_more_than_it_may(tmp_path: Path) -> None:
    some = texts(30)
    kept = ActivationCache(tmp_path, some, most_bytes=2_000)
    kept.write("key", some_states(some))
    kept.save()

    assert 0 < len(ActivationCache(tmp_path, some).read("key", some)) < 30


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "activations").write_text("a file where a folder should be")
    kept = ActivationCache(tmp_path, texts(3))
    kept.write("key", some_states(texts(3)))

    kept.save()


def test_batches_hold_every_row_once_and_texts_of_like_length(backbone: Backbone) -> None:
    prepared = Embedder(backbone, 0, bf16=False).prepared(texts(101))
    batches = like_length_batches(prepared, 8, np.random.default_rng(0))

    assert sorted(np.concatenate(batches).tolist()) == list(range(101))
    spreads = [np.ptp([len(prepared.tokens[row]) for row in batch]) for batch in batches]
    assert np.mean(spreads) < 8


def test_contrastive_batches_hold_pairs_of_one_label() -> None:
    targets = np.repeat(np.arange(12), [1, *[5] * 11])
    for batch in pair_batches(targets, 8, np.random.default_rng(0)):
        assert (np.bincount(targets[batch], minlength=12) % 2 == 0).all()
        assert 0 not in targets[batch]
