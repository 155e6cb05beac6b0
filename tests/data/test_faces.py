"""open_faces: splits, items, augmentation, workers, and real faces."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from aminet_fast.data import DataConfig, DataError, StepSampler, degrade, open_faces, read_image, to_image, to_tensor
from aminet_fast.data.augment import augment
from aminet_fast.data.check import CheckConfig, check
from tests.harness.bad_files import make_zoo, ramp

real = pytest.mark.skipif("AMINET_FACES" not in os.environ, reason="AMINET_FACES is not set: no real faces here")


def fill(folder: Path, names: list[str], size: tuple[int, int] = (128, 128)) -> Path:
    rng = np.random.default_rng(len(names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def test_items_follow_the_protocol(tmp_path, cache):
    ramp(178, 218).save(tmp_path / "face.png")
    faces = open_faces(DataConfig(root=str(tmp_path), cache=cache), "all")
    hr = ramp(178, 218).crop((0, 20, 178, 198)).resize((128, 128), Image.Resampling.BICUBIC)
    lr, up = degrade(hr)
    item = faces[0]
    assert item["name"] == "face.png"
    assert torch.equal(item["hr"], to_tensor(hr))
    assert torch.equal(item["lr"], to_tensor(lr))
    assert torch.equal(item["input"], to_tensor(up))
    cropped = open_faces(DataConfig(root=str(tmp_path), cache=cache, crop=100), "all")
    want = ramp(178, 218).crop((39, 59, 139, 159)).resize((128, 128), Image.Resampling.BICUBIC)
    assert torch.equal(cropped[0]["hr"], to_tensor(want))
    assert cropped.fingerprint != faces.fingerprint


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_zoo_is_skipped_with_one_counted_warning(tmp_path, cache, caplog):
    expected = make_zoo(tmp_path / "zoo")
    for _ in range(2):  # from the files, and from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING, "aminet_fast"):
            faces = open_faces(DataConfig(root=str(tmp_path / "zoo"), cache=cache), "all")
        assert faces.names == sorted((n for n, e in expected.items() if e.usable), key=Path)
        bad = sum(not e.usable for e in expected.values())
        assert len(faces.bad) == bad
        skipped = [r.getMessage() for r in caplog.records if r.getMessage().startswith("skipped")]
        assert len(skipped) == 1
        assert f"skipped {bad} of {len(expected)} files" in skipped[0]
        assert f"and {bad - 5} more" in skipped[0]
        assert any("1 of" in r.getMessage() and "enlarged" in r.getMessage() for r in caplog.records)
        assert faces.enlarged == 1
    one, two = (faces[faces.names.index(f"{name}/same.png")]["hr"] for name in ("one", "two"))
    assert not torch.equal(one, two)


def test_nothing_usable_says_what_was_looked_for(tmp_path, cache):
    with pytest.raises(DataError, match=r"does not exist"):
        open_faces(DataConfig(root=str(tmp_path / "nowhere"), cache=cache))
    with pytest.raises(DataError, match=r"no faces under .*looked for pictures \(.*\.png"):
        open_faces(DataConfig(root=str(tmp_path), cache=cache))
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(DataError, match="none of the 1 pictures"):
        open_faces(DataConfig(root=str(tmp_path), cache=cache), "all")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layout": "kitchen"}, "layout"),
        ({"size": 100}, "divide"),
        ({"limit": 0}, "limit"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range(options, says):
    with pytest.raises(DataError, match=says):
        DataConfig(**options)


def test_flat_folder_is_split_by_hash(tmp_path, cache):
    fill(tmp_path, [f"p{i}_{v}.png" for i in range(60) for v in "ab"])
    config = DataConfig(root=str(tmp_path), cache=cache)
    train, val = open_faces(config, "train").names, open_faces(config, "val").names
    # the stems p0..p59 whose SHA-1 is 0 mod 25, from sha1sum
    assert sorted({name[:-6] for name in val}) == VAL_STEMS
    assert len(train) + len(val) == 120
    assert not {n[:-6] for n in train} & {n[:-6] for n in val}
    with pytest.raises(DataError, match=r"no test split; it has: .*train"):
        open_faces(config, "test")


def test_split_folders_win(tmp_path, cache):
    fill(tmp_path, ["train/a.png", "train/x/a.png", "val/b.png", "test_a/c.png", "test_b/c.png", "other/d.png"])
    config = DataConfig(root=str(tmp_path), cache=cache)
    assert open_faces(config, "train").names == ["train/a.png", "train/x/a.png"]
    assert open_faces(config, "val").names == ["val/b.png"]
    assert open_faces(config, "test").names == ["test_a/c.png", "test_b/c.png"]
    assert len(open_faces(config, "all")) == 6


def test_limits_draw_by_seed(tmp_path, cache):
    fill(tmp_path, [f"{i:03}.png" for i in range(40)], (16, 16))
    config = DataConfig(root=str(tmp_path), cache=cache, limit=10)
    few = open_faces(config, "all").names
    assert len(few) == 10
    assert few == sorted(few)
    assert set(few) < set(open_faces(DataConfig(root=str(tmp_path), cache=cache, limit=20), "all").names)
    assert few != open_faces(DataConfig(root=str(tmp_path), cache=cache, limit=10, seed=1), "all").names
    assert len(open_faces(DataConfig(root=str(tmp_path), cache=cache, val_limit=1), "val")) == 1


def test_augmentation_comes_from_the_item_seed_alone(cache):
    config = DataConfig(drawn=4, cache=cache)
    plain, moved = open_faces(config), open_faces(config, augment=True)
    assert torch.equal(plain[0]["hr"], plain[(0, 7)]["hr"])
    assert torch.equal(moved[(0, 7)]["hr"], moved[(0, 7)]["hr"])
    assert not torch.equal(moved[(0, 7)]["hr"], moved[(0, 8)]["hr"])
    item = moved[(0, 7)]
    hr = Image.fromarray(item["hr"].add(1).mul(127.5).round().permute(1, 2, 0).to(torch.uint8).numpy())
    assert torch.equal(item["input"], to_tensor(degrade(hr)[1]))
    flipped = open_faces(config, augment="flip")
    assert {flipped[(0, s)]["hr"].equal(plain[0]["hr"].flip(2)) for s in range(20)} == {True, False}
    assert {flipped[(0, s)]["hr"].equal(plain[0]["hr"]) for s in range(20)} == {True, False}
    posed, face = open_faces(config, augment="pose"), to_image(plain[0]["hr"])
    for seed in range(6):
        assert to_image(posed[(0, seed)]["hr"]).tobytes() == augment(face, seed, "pose").tobytes()
    torch.manual_seed(0)
    assert not torch.equal(moved[0]["hr"], moved[0]["hr"])  # a plain index draws anew each time
    with pytest.raises(IndexError):
        plain[4]


def test_workers_give_the_same_batches(cache):
    faces = open_faces(DataConfig(drawn=10, cache=cache), augment=True)
    again = pickle.loads(pickle.dumps(faces))
    assert len(pickle.dumps(faces)) < 5000  # the pixels stay in the file
    assert torch.equal(again[(3, 1)]["hr"], faces[(3, 1)]["hr"])

    def batches(workers: int) -> list[dict]:
        return list(DataLoader(faces, batch_sampler=StepSampler(10, 4, seed=2, steps=3), num_workers=workers))

    for a, b in zip(batches(0), batches(2), strict=True):
        assert a["name"] == b["name"]
        assert len(a["name"]) == 4
        for key in ("hr", "lr", "input"):
            assert torch.equal(a[key], b[key])
    assert a["input"].shape == (4, 3, 128, 128)
    assert a["lr"].shape == (4, 3, 16, 16)


def test_check_prints_and_returns(tmp_path, capsys):
    fill(tmp_path / "good", ["a.png", "b.png", "small.png"])
    (tmp_path / "good" / "copy.png").write_bytes((tmp_path / "good" / "a.png").read_bytes())
    (tmp_path / "good" / "bad.png").write_bytes(b"no")
    ramp(40, 40).save(tmp_path / "good" / "small.png")
    assert check(CheckConfig(str(tmp_path / "good"))) == 0
    out = capsys.readouterr().out
    for words in (
        "folder",
        "4 of 5",
        "bad.png: is no picture that Pillow knows",
        "a.png = copy.png",
        "40x40 (1)",
    ):
        assert words in out
    assert check(CheckConfig(str(tmp_path / "none"))) == 1
    assert "does not exist" in capsys.readouterr().err
    fill(tmp_path / "none", [])
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "bad.png").write_bytes(b"no")
    assert check(CheckConfig(str(tmp_path / "none"))) == 1
    assert "nothing usable" in capsys.readouterr().out


@real
def test_real_faces(cache):
    root = Path(os.environ["AMINET_FACES"])
    counts = {}
    for part, split in (
        ("train", "train"),
        ("train", "val"),
        ("train", "all"),
        ("test_a", "all"),
        ("test_b", "all"),
    ):
        faces = open_faces(DataConfig(root=str(root / part), cache=cache), split)
        assert faces.bad == []
        counts[part, split] = len(faces)
    assert list(counts.values()) == [4911, 182, 5093, 200, 168]
    name = faces.names[7]
    lr = read_image(root / "test_b" / name).rgb.resize((16, 16), Image.Resampling.BICUBIC)
    assert torch.equal(faces[7]["lr"], to_tensor(lr))
    assert torch.equal(faces[7]["input"], to_tensor(lr.resize((128, 128), Image.Resampling.BICUBIC)))


@real
def test_real_root_uses_its_split_folders(cache):
    config = DataConfig(root=os.environ["AMINET_FACES"], cache=cache, limit=5, val_limit=182)
    assert len(open_faces(config, "test")) == 5
    val = open_faces(config, "val")
    assert len(val) == 182
    assert all(name.startswith("train/") for name in val.names)


VAL_STEMS = ["p2", "p34", "p43"]
