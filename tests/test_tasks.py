"""Tasks: definitions, seeds, splits, scores and data files."""

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from cellzoo.tasks import Adding, Copy, DataError, Digits, jsb, tasks
from cellzoo.tasks.jsb import JSB

HAVE_DATA = (
    bool(os.environ.get("CELLZOO_DATA"))
    and (Path(os.environ["CELLZOO_DATA"]) / "jsb" / "JSB_Chorales.mat").exists()
)
needs_data = pytest.mark.skipif(not HAVE_DATA, reason="CELLZOO_DATA holds no JSB Chorales")


def everything(task, split, epoch=0):
    examples = task.examples(split, epoch)
    return examples.__getitems__(range(len(examples)))


@given(length=st.integers(2, 60), seed=st.integers(0, 5))
def test_adding_is_the_sum_of_the_two_marked(length, seed):
    x, y = everything(Adding(length=length, train_size=20, seed=seed), "train")
    u, marks = x.unbind(-1)
    assert x.shape == (20, length, 2)
    assert ((u >= 0) & (u <= 1)).all()
    assert set(marks.unique().tolist()) <= {0.0, 1.0}
    assert (marks[:, : length // 2].sum(1) == 1).all()
    assert (marks[:, length // 2 :].sum(1) == 1).all()
    torch.testing.assert_close((u * marks).sum(1), y)


def test_adding_scores_a_sixth_for_the_constant_one():
    task = Adding(train_size=200_000, length=4)
    _, y = everything(task, "train")
    mean, count = task.measure(torch.ones(len(y), 1), y)["loss"]
    assert count == len(y)
    assert float(mean) == pytest.approx(1 / 6, abs=2e-3)


@given(length=st.integers(1, 40))
def test_copy_is_ten_symbols_a_wait_and_the_symbols_again(length):
    x, y = everything(Copy(length=length, train_size=5), "train")
    symbols = x.argmax(-1)
    assert x.shape == (5, length + 20, 10)
    assert (x.sum(-1) == 1).all()
    assert ((symbols[:, :10] >= 1) & (symbols[:, :10] <= 8)).all()
    assert (symbols[:, 10 : 10 + length - 1] == 0).all()
    assert (symbols[:, 10 + length - 1 :] == 9).all()
    assert symbols[:, 10 + length - 1 :].shape[1] == 11
    assert (y[:, : length + 10] == 0).all()
    assert (y[:, length + 10 :] == symbols[:, :10]).all()


def test_copy_scores_the_memoryless_loss_for_the_memoryless_answer():
    task = Copy(length=100, train_size=50)
    _, y = everything(task, "train")
    # A certain prediction of the zeros, and a uniform one of the eight symbols at the end.
    answer = torch.full((50, 120, 9), -1e4)
    answer[:, :110, 0] = 1e4
    answer[:, 110:, 1:] = 1e4
    scores = task.measure(answer, y)
    assert float(scores["loss"][0]) == pytest.approx(10 * math.log(8) / 120, rel=1e-6)
    assert task.memoryless_loss == pytest.approx(0.173, abs=5e-4)
    perfect = torch.nn.functional.one_hot(y, 9) * 100.0
    assert float(task.measure(perfect, y)["accuracy"][0]) == 1


@pytest.mark.parametrize("name", ["adding", "copy"])
def test_training_examples_follow_seed_and_epoch_and_the_rest_does_not(name):
    def data(seed, split, epoch):
        return everything(tasks[name](seed=seed), split, epoch)[0]

    assert torch.equal(data(0, "train", 3), data(0, "train", 3))
    assert not torch.equal(data(0, "train", 3), data(0, "train", 4))
    assert not torch.equal(data(0, "train", 3), data(1, "train", 3))
    for split in ("val", "test"):
        assert torch.equal(data(0, split, 0), data(7, split, 5))
    assert not torch.equal(data(0, "val", 0), data(0, "test", 0))


def test_digits_are_real_split_once_and_read_by_rows_or_pixels():
    rows, pixels = Digits(), Digits(read="pixels", seed=9)
    assert (rows.input_size, pixels.input_size) == (8, 1)
    seen = []
    for split, size in (("train", 1077), ("val", 360), ("test", 360)):
        x, y = everything(rows, split)
        long, same = everything(pixels, split)
        assert x.shape == (size, 8, 8)
        assert long.shape == (size, 64, 1)
        assert torch.equal(x.reshape(size, 64, 1), long)
        assert torch.equal(y, same)
        assert float(x.max()) == 1
        counts = torch.bincount(y, minlength=10) / size
        assert (counts - 0.1).abs().max() < 0.01  # stratified
        seen.append({image.numpy().tobytes() for image in x})
    assert not seen[0] & seen[2]
    assert not seen[0] & seen[1]


def test_loaders_order_training_by_seed_and_give_every_example_once():
    def labels(seed):
        return torch.cat([y for _, y in Digits(seed=seed).train_dataloader()])

    assert torch.equal(labels(1), labels(1))
    assert not torch.equal(labels(1), labels(2))
    assert torch.equal(labels(1).sort()[0], labels(2).sort()[0])
    held_out = torch.cat([y for _, y in Digits(seed=3).test_dataloader()])
    assert torch.equal(held_out, everything(Digits(), "test")[1])


def test_wrong_options():
    with pytest.raises(TypeError, match="did you mean 'length'"):
        Adding(lenght=3)
    with pytest.raises(ValueError, match="'rows', 'pixels'"):
        Digits(read="columns")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        Digits(batch_size=0)
    with pytest.raises(ValueError, match="at least 2"):
        Adding(length=1).examples("val", 0)


@needs_data
def test_jsb_is_the_real_thing():
    task = JSB()
    for split, count in (("train", 229), ("val", 76), ("test", 77)):
        assert len(task.examples(split, 0)) == count
    x, y = everything(task, "train")
    # The unigram baseline on the test split, as published with the data: 11.09 per step.
    p = torch.cat([x.data, y.data]).mean(0).clamp(1e-6, 1 - 1e-6)
    _, test = everything(task, "test")
    logits = torch.logit(p).expand(len(test.data), 88)
    nats, frames = task.measure(logits, test)["loss"]
    assert frames == len(test.data)
    assert float(nats) == pytest.approx(11.09, abs=0.1)


def fake_chorales(path, lengths, monkeypatch):
    generator = np.random.default_rng(0)
    splits = {}
    for key in ("traindata", "validdata", "testdata"):
        songs = np.empty((1, len(lengths)), dtype=object)
        for i, length in enumerate(lengths):
            songs[0, i] = (generator.random((length, 88)) < 0.1).astype(np.uint8)
        splits[key] = songs
    path.parent.mkdir(parents=True)
    savemat(path, splits)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(jsb, "CHORALES", jsb.DataFile("JSB_Chorales.mat", "jsb", "a-url", digest))
    return splits


def test_jsb_scores_by_frame_and_sums_over_notes(tmp_path, monkeypatch):
    lengths = [5, 9, 3]
    songs = fake_chorales(tmp_path / "jsb" / "JSB_Chorales.mat", lengths, monkeypatch)
    task = JSB(root=str(tmp_path))
    x, y = everything(task, "test")
    assert len(x.data) == len(y.data) == sum(lengths) - len(lengths)
    prediction = torch.randn(len(y.data), 88)
    mean, frames = task.measure(prediction, y)["loss"]
    # The expected rows of a packed batch: step by step, the longest chorale first.
    order, total, row = [1, 0, 2], 0.0, 0
    for t in range(1, max(lengths)):
        for song in order:
            if t < lengths[song]:
                target = songs["testdata"][0, song][t]
                p = 1 / (1 + np.exp(-prediction[row].double().numpy()))
                total -= np.log(np.where(target, p, 1 - p)).sum()
                row += 1
    assert frames == row
    assert float(mean) == pytest.approx(total / row, rel=1e-5)


def test_data_files_that_are_missing_wrong_or_unreadable(tmp_path, monkeypatch):
    monkeypatch.delenv("CELLZOO_DATA", raising=False)
    with pytest.raises(DataError, match=r"put it at .*jsb/JSB_Chorales.mat"):
        JSB(root=str(tmp_path)).examples("train", 0)
    path = tmp_path / "jsb" / "JSB_Chorales.mat"
    path.parent.mkdir()
    path.write_bytes(b"half a file")
    with pytest.raises(DataError, match="is not the expected file"):
        JSB(root=str(tmp_path)).examples("train", 0)
    digest = hashlib.sha256(b"half a file").hexdigest()
    monkeypatch.setattr(jsb, "CHORALES", jsb.DataFile("JSB_Chorales.mat", "jsb", "u", digest))
    with pytest.raises(DataError, match="cannot be read as JSB Chorales"):
        JSB(root=str(tmp_path)).examples("train", 0)


def test_a_download_is_checked_and_moved_whole_and_offline_is_explained(tmp_path, monkeypatch):
    import functools
    import http.server
    import threading

    from cellzoo.tasks import data

    served, cache = tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    (served / "songs.mat").write_bytes(b"music" * 1000)
    monkeypatch.delenv("CELLZOO_DATA", raising=False)
    monkeypatch.setattr(data, "user_cache_path", lambda name: cache)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/songs.mat"
    try:
        wrong = data.DataFile("songs.mat", "jsb", url, "0" * 64)
        with pytest.raises(DataError, match=r"data\.root"):
            wrong.find(None)
        assert not list(cache.rglob("songs.mat"))
        digest = hashlib.sha256(b"music" * 1000).hexdigest()
        right = data.DataFile("songs.mat", "jsb", url, digest)
        assert right.find(None).read_bytes() == b"music" * 1000
    finally:
        server.shutdown()
        server.server_close()
    assert right.find(None).exists()  # from the cache: the server is gone
    (cache / "jsb" / "songs.mat").unlink()
    with pytest.raises(DataError, match="put that file at"):
        right.find(None)
