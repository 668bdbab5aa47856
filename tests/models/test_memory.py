"""What a model takes, from its headers."""

from __future__ import annotations

from pathlib import Path

from ingle.models.checkpoint import open_checkpoint
from ingle.models.memory import footprint
from models.checkpoints_on_disk import CONFIG, MIXTRAL, llama_arrays, mixtral_arrays, save


def test_footprint_of_a_small_llama(tmp_path: Path) -> None:
    found = footprint(open_checkpoint(save(tmp_path / "hf", llama_arrays())))
    attention, feed_forward = 64 + 64 * 64 * 2 + 32 * 64 * 2, 64 + 3 * 96 * 64
    assert found.blocks == (4 * attention, 4 * feed_forward) * 2
    assert found.embedding_bytes == 4 * 70 * 64
    assert found.output_bytes == 4 * (70 * 64 + 64)
    assert found.weights_bytes == 4 * found.n_parameters
    assert found.active_bytes == found.weights_bytes - found.embedding_bytes
    assert found.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2


def test_a_tied_output_counts_once_and_a_shared_layer_is_read_as_often_as_it_runs(tmp_path: Path) -> None:
    arrays = llama_arrays()
    del arrays["lm_head.weight"]
    shared = CONFIG | {"model_type": "mobilellm", "share_embedding": True, "layer_sharing": True}
    found = footprint(open_checkpoint(save(tmp_path / "hf", arrays, shared)))
    assert found.weights_bytes == sum(array.nbytes for array in arrays.values())
    assert found.active_bytes == 2 * sum(found.blocks) + found.embedding_bytes + 4 * 64
    assert found.kv_bytes_per_token == 4 * 2 * 2 * 16 * 2


def test_a_token_reads_only_its_experts(tmp_path: Path) -> None:
    found = footprint(open_checkpoint(save(tmp_path / "hf", mixtral_arrays(), MIXTRAL)))
    idle = 2 * 3 * 3 * 4 * 96 * 64  # layers, experts, matrices
    assert found.active_bytes == found.weights_bytes - found.embedding_bytes - idle
