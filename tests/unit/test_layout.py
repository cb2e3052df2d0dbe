"""Names of files to checkpoints: which epoch a name says, and what makes one checkpoint."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydeck_nb.checkpoints.layout import Entry, checkpoints, epoch_of, model_name

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def entry(path: str, size: int = 1, age: float = 0.0) -> Entry:
    return Entry(path, size, NOON - timedelta(seconds=age))


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("checkpoint_12.npz", 12),
        ("epoch=12-step=3.ckpt", 12),
        ("model_000120.pt", 120),
        ("v12.mpt", 12),
        ("my-policy:v12.mpt", 12),
        ("7.mpt", 7),
        ("epoch_3", 3),
        ("Epoch 4.PT", 4),
        ("model-epoch-5-best.safetensors", 5),
        ("run2_epoch7.pth", 7),
        ("ckpt.9.pkl", 9),
        # what the original read wrongly (reference/storage.md)
        ("conv2.mpt", None),
        ("dev5.mpt", None),
        ("step_1e6.mpt", 1_000_000),
        ("checkpoint_5_epoch_100.mpt", 100),
        # no epoch
        ("model.npz", None),
        ("best.pt", None),
        ("resnet50.pt", None),
        ("model_12a.pt", None),
        ("epoch_20260101123456789012.pt", None),
        ("", None),
    ],
)
def test_the_epoch_that_a_name_says(name: str, epoch: int | None) -> None:
    assert epoch_of(name) == epoch


@given(st.integers(0, 2**53 - 1), st.sampled_from([".npz", ".pt", ".mpt", ".safetensors"]))
def test_a_name_we_make_is_read_back(epoch: int, suffix: str) -> None:
    assert epoch_of(model_name(epoch, suffix)) == epoch


def test_names_we_make_sort_by_epoch() -> None:
    assert model_name(90) < model_name(100)


def test_one_checkpoint_an_epoch_with_its_replays() -> None:
    found = checkpoints(
        [
            entry("v10.mpt", 100),
            entry("v2.mpt", 90),
            entry("replays/v10/a.json.z"),
            entry("replays/v10/b.json.z"),
            entry("v2.json.z"),
        ]
    )
    assert [(c.epoch, c.model_path, c.replay_paths, c.size) for c in found.checkpoints] == [
        (2, "v2.mpt", ("v2.json.z",), 90),
        (10, "v10.mpt", ("replays/v10/a.json.z", "replays/v10/b.json.z"), 100),
    ]
    assert found.unrecognised == ()


def test_a_folder_is_one_model_with_all_it_holds() -> None:
    found = checkpoints(
        [
            entry("epoch_12/weights.bin", 10, age=5),
            entry("epoch_12/optimizer_1.pt", 20),
            entry("epoch_12/replays/x.json.z"),
        ]
    )
    (only,) = found.checkpoints
    assert (only.epoch, only.model_path, only.size, only.created_at) == (12, "epoch_12/", 30, NOON)
    assert only.replay_paths == ("epoch_12/replays/x.json.z",)


def test_of_two_models_of_one_epoch_the_newer_counts_and_the_other_stays_visible() -> None:
    old, new = entry("checkpoint_5.pt", age=60), entry("epoch_5.pt")
    found = checkpoints([old, new])
    assert [c.model_path for c in found.checkpoints] == ["epoch_5.pt"]
    assert found.unrecognised == (old,)


def test_what_is_not_understood_is_kept_visible() -> None:
    odd = [entry("conv2.mpt"), entry("notes 3.txt"), entry("replays/v9/lonely.json.z")]
    found = checkpoints([*odd, entry("v1.mpt"), entry("folder/")])
    assert set(found.unrecognised) == set(odd)
    assert [c.epoch for c in found.checkpoints] == [1]


@given(
    st.lists(
        st.builds(entry, st.text(min_size=1, max_size=30), st.integers(0, 9)), max_size=20, unique_by=lambda e: e.path
    )
)
def test_no_file_is_lost_and_order_does_not_matter(entries: list[Entry]) -> None:
    found = checkpoints(entries)
    assert checkpoints(reversed(entries)) == found
    kept = [c.model_path for c in found.checkpoints] + [p for c in found.checkpoints for p in c.replay_paths]
    for each in entries:
        if not each.path.endswith("/"):
            assert each in found.unrecognised or any(each.path == p or each.path.startswith(p) for p in kept)
