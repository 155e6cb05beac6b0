"""CelebA, Helen, SCface and paired folders, as they are downloaded."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aminet_fast.data import DataConfig, DataError, celeba, degrade, open_faces, to_tensor
from aminet_fast.data.check import CheckConfig, check
from aminet_fast.data.sources import list_faces
from tests.harness.bad_files import ramp


def config(root: Path, **options: object) -> DataConfig:
    return DataConfig(root=str(root), cache=str(root.parent / "cache"), **options)


def make_celeba(
    pictures: Path, partition: Path, count: int = 30, ending: str = "jpg", size: tuple[int, int] = (178, 218)
) -> None:
    pictures.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(1, count + 1):
        ramp(*size).rotate(3 * i).save(pictures / f"{i:06}.{ending}")
        lines.append(f"{i:06}.jpg {0 if i <= 20 else 1 if i <= 26 else 2}")
    header = "image_id,partition\n" if partition.suffix == ".csv" else ""
    text = "\n".join(lines) + "\n"
    partition.parent.mkdir(parents=True, exist_ok=True)
    partition.write_text(header + (text.replace(" ", ",") if header else text))


@pytest.mark.parametrize(
    ("pictures", "partition", "root"),
    [
        ("img_align_celeba", "list_eval_partition.txt", "."),
        ("img_align_celeba", "list_eval_partition.txt", "img_align_celeba"),
        ("img_align_celeba/img_align_celeba", "list_eval_partition.csv", "."),
        ("img_align_celeba/img_align_celeba", "list_eval_partition.csv", "img_align_celeba"),
        ("img_align_celeba/img_align_celeba", "list_eval_partition.csv", "img_align_celeba/img_align_celeba"),
        ("Img/img_align_celeba", "Eval/list_eval_partition.txt", "."),
        ("img_align_celeba_png", "list_eval_partition.txt", "."),
        ("img_align_celeba_png", "list_eval_partition.txt", "img_align_celeba_png"),
        ("Img/img_align_celeba_png/img_align_celeba_png", "Eval/list_eval_partition.txt", "."),
        ("CelebA/Img/img_align_celeba", "CelebA/Eval/list_eval_partition.txt", "."),
        ("celeba/img_celeba", "celeba/list_eval_partition.csv", "."),
        ("faces_png", "list_eval_partition (1).txt", "."),
        (".", "list_eval_partition.txt", "."),
    ],
)
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_celeba_in_every_nesting(tmp_path, pictures, partition, root, ending):
    data = tmp_path / "data"
    make_celeba(data / pictures, data / partition, ending=ending, size=(8, 8))
    listing = list_faces(config(data / root))
    assert listing.layout == "celeba"
    assert {split: len(items) for split, items in listing.splits.items()} == {
        "train": 20,
        "val": 6,
        "test": 4,
        "all": 30,
    }
    assert listing.splits["test"][0].name == f"000027.{ending}"
    assert [warning for warning in listing.warnings if "img_celeba has whole photographs" not in warning] == []


def test_celeba_draws_and_lists(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(celeba, "CELEBA_TRAIN", 8)
    monkeypatch.setattr(celeba, "CELEBA_TEST", 2)
    root = tmp_path / "celeba"
    make_celeba(root / "img_align_celeba", root / "list_eval_partition.txt")
    (root / "img_align_celeba" / "000030.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        train = open_faces(config(root), "train")
    assert "1 of the pictures" in caplog.text
    assert len(train) == 8
    assert max(train.names) <= "000020.jpg"
    assert train.names == open_faces(config(root), "train").names != open_faces(config(root, seed=1), "train").names
    listed = tmp_path / "cache" / "lists" / "celeba-train-8-seed0.txt"
    assert listed.read_text().split() == train.names
    assert len(open_faces(config(root), "test")) == 2
    assert len(open_faces(config(root, subset="official"), "train")) == 20
    assert len(open_faces(config(root), "all")) == 29


def test_celeba_partition_errors(tmp_path):
    make_celeba(tmp_path / "img_align_celeba", tmp_path / "list_eval_partition.txt", 2)
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg seven\n")
    with pytest.raises(DataError, match=r"line 2: '000002.jpg seven'"):
        list_faces(config(tmp_path))
    with pytest.raises(DataError, match=r"looked for img_align_celeba/ .* with list_eval_partition"):
        list_faces(config(make_empty(tmp_path), layout="celeba"))


@pytest.mark.parametrize("again", ["000001.jpg 1", "000001.png 1", "000001.jpg 0", "000001 2"])
def test_a_picture_that_a_partition_list_names_twice(tmp_path, again):
    make_celeba(tmp_path / "img_align_celeba", tmp_path / "list_eval_partition.txt", 2, size=(8, 8))
    (tmp_path / "list_eval_partition.txt").write_text(f"000001.jpg 0\n000002.jpg 1\n{again}\n")
    with pytest.raises(
        DataError, match=r"list_eval_partition\.txt names picture 000001 twice, on line 1 and on line 3; drop one"
    ):
        list_faces(config(tmp_path))


@pytest.mark.parametrize(
    ("pictures", "partition", "there", "root"),
    [
        ("img_align_celeba_png", "list_eval_partition.txt", "img_align_celeba_png", "."),
        ("Img/img_align_celeba", "Eval/list_eval_partition.txt", "Img/img_align_celeba", "."),
        ("Img/img_align_celeba", "Eval/list_eval_partition.txt", "Img", "img_align_celeba"),
        ("Img/img_align_celeba", "Eval/list_eval_partition.txt", "Img", "."),
        ("img_align_celeba", "list_eval_partition.txt", "img_align_celeba/below", ".."),
    ],
)
def test_celeba_from_within(tmp_path, monkeypatch, pictures, partition, there, root):
    """What a relative root leaves unsaid is looked at too."""
    make_celeba(tmp_path / pictures, tmp_path / partition, size=(8, 8))
    (tmp_path / there).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / there)
    listing = list_faces(DataConfig(root=root))
    assert (listing.layout, listing.where, len(listing.splits["test"])) == ("celeba", root, 4)
    assert listing.warnings == []


def test_a_partition_list_above_a_folder_of_another_name(tmp_path):
    for place in ("e", "f/Eval"):
        root = tmp_path / place[0] / "mine"
        make_celeba(root, tmp_path / place / "list_eval_partition.txt", size=(8, 8))
        listing = list_faces(config(root))
        assert listing.layout == "folder"
        assert f"{place}/list_eval_partition.txt was found and not used, though it names most" in listing.warnings[0]
        assert f"move it into {root}" in listing.warnings[0]
        assert list_faces(config(root, layout="folder")).warnings == []
    (tmp_path / "f/Eval/list_eval_partition.txt").write_text("nothing of the kind\n")
    assert list_faces(config(root)).warnings == []


def make_empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def helen_lines(left: tuple[float, float], right: tuple[float, float]) -> list[str]:
    points = [(300.0, 300.0)] * 114 + [left] * 20 + [right] * 20 + [(300.0, 250.0)] * 40
    return [f"{x} , {y}" for x, y in points]


def test_helen_is_cut_by_the_eyes(tmp_path):
    root = tmp_path / "helen"
    (root / "annotation").mkdir(parents=True)
    (root / "train_1").mkdir()
    for i, name in enumerate(("10_1", "11_1", "12_1")):
        ramp(600, 500).save(root / "train_1" / f"{name}.png")
        (root / "annotation" / f"{i}.txt").write_text("\n".join([name, *helen_lines((250, 200), (310, 200))]))
    ramp(600, 500).save(root / "train_1" / "no_points.png")
    (root / "testnames.txt").write_text("12_1.jpg\n13_1.jpg\n")
    faces = open_faces(config(root), "test")
    assert faces.names == ["train_1/12_1.png"]
    # eyes 60 pixels apart: a square of 200 around (280, 212)
    want = ramp(600, 500).crop((180, 112, 380, 312)).resize((128, 128), Image.Resampling.BICUBIC)
    assert torch.equal(faces[0]["hr"], to_tensor(want))
    listing = list_faces(config(root))
    assert listing.layout == "helen"
    assert len(listing.splits["all"]) == 3
    assert listing.warnings == [
        f"1 pictures in {root} have no landmarks and were left out",
        f"1 of the 2 test pictures that {root}/testnames.txt lists are not in {root}",
    ]


def test_helen_with_pts_files(tmp_path):
    root = tmp_path / "helen"
    for part in ("trainset", "testset"):
        (root / part).mkdir(parents=True)
        ramp(300, 300).save(root / part / f"{part}_1.png")
        points = [(10.0, 10.0)] * 36 + [(40.0, 30.0)] * 6 + [(100.0, 30.0)] * 6 + [(9.0, 9.0)] * 20
        rows = "\n".join(f"{x} {y}" for x, y in points)
        (root / part / f"{part}_1.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")
    test = open_faces(config(root), "test")
    assert test.names == ["testset/testset_1.png"]
    # the square around (70, 42) of 200 leaves the picture: moved inside
    want = ramp(300, 300).crop((0, 0, 200, 200)).resize((128, 128), Image.Resampling.BICUBIC)
    assert torch.equal(test[0]["hr"], to_tensor(want))
    assert open_faces(config(root), "all").names == ["testset/testset_1.png", "trainset/trainset_1.png"]


def test_files_that_only_look_like_landmarks(tmp_path):
    """A film stream, and what macOS leaves beside each landmark file in archives."""
    ramp().save(tmp_path / "face.png")
    (tmp_path / "film.pts").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "folder.pts").mkdir()
    (tmp_path / "annotation").mkdir()
    (tmp_path / "annotation" / "._1.txt").write_bytes(b"\x00\x05\x16\x07\xb0\xff")
    listing = list_faces(config(tmp_path))
    assert listing.layout == "folder"
    assert [item.name for item in listing.splits["all"]] == ["face.png"]


def test_scface_has_lr_alone(tmp_path):
    root = tmp_path / "SCface"
    for folder in ("surveillance_cameras_all", "surveillance_cameras_distance_1/cam_1"):
        (root / folder).mkdir(parents=True)
        for i in (1, 2):
            ramp(75, 100).save(root / folder / f"{i:03}_cam1_1.png")
    (root / "mugshot_frontal_cropped_all").mkdir()
    ramp(200, 300).save(root / "mugshot_frontal_cropped_all" / "001_frontal.png")
    faces = open_faces(config(root), "test")
    assert faces.names == [
        "surveillance_cameras_all/001_cam1_1.png",
        "surveillance_cameras_all/002_cam1_1.png",
    ]
    assert not faces.has_hr
    lr = ramp(75, 100).crop((0, 12, 75, 87)).resize((16, 16), Image.Resampling.BICUBIC)
    assert set(faces[0]) == {"input", "lr", "name"}
    assert torch.equal(faces[0]["lr"], to_tensor(lr))
    assert torch.equal(faces[0]["input"], to_tensor(lr.resize((128, 128), Image.Resampling.BICUBIC)))
    with pytest.raises(DataError, match="no train split; it has: test, all"):
        open_faces(config(root), "train")


def make_pairs(base: Path, names: list[str]) -> None:
    (base / "HR").mkdir(parents=True)
    (base / "LR").mkdir()
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)).save(base / "HR" / f"{name}.png")
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(base / "LR" / f"{name}.bmp")


def test_pairs_are_taken_as_given(tmp_path, caplog):
    root = tmp_path / "pairs"
    make_pairs(root, ["a", "b", "c"])
    (root / "LR" / "b.bmp").unlink()
    ramp(32, 32).save(root / "LR" / "c.bmp")
    with caplog.at_level(logging.WARNING):
        faces = open_faces(config(root), "all")
    assert faces.names == ["a.png"]
    assert "1 pictures have no partner" in caplog.text
    assert "c.png is 32x32, wanted LR of 16x16" in caplog.text
    lr = Image.open(root / "LR" / "a.bmp")
    assert torch.equal(faces[0]["lr"], to_tensor(lr))
    assert torch.equal(faces[0]["hr"], to_tensor(Image.open(root / "HR" / "a.png")))
    assert not torch.equal(faces[0]["lr"], to_tensor(degrade(Image.open(root / "HR" / "a.png"))[0]))
    for augment in ("full", "pose"):  # pairs are flipped, both alike, and nothing else
        augmented = open_faces(config(root), "all", augment=augment)
        seen = {augmented[(0, seed)]["lr"].flip(2).equal(faces[0]["lr"]) for seed in range(20)}
        assert seen == {True, False}
        for seed in range(20):
            item = augmented[(0, seed)]
            flipped = item["lr"].flip(2).equal(faces[0]["lr"])
            assert (item["lr"].flip(2) if flipped else item["lr"]).equal(faces[0]["lr"])
            assert (item["hr"].flip(2) if flipped else item["hr"]).equal(faces[0]["hr"])


def test_pairs_in_split_folders(tmp_path):
    root = tmp_path / "pairs"
    make_pairs(root / "train", ["a", "b"])
    make_pairs(root / "test", ["a"])
    assert open_faces(config(root), "test").names == ["test/a.png"]
    assert len(open_faces(config(root), "all")) == 3
    assert check(CheckConfig(str(root))) == 0


def test_pairs_without_a_match(tmp_path):
    make_pairs(tmp_path, ["a"])
    (tmp_path / "LR" / "a.bmp").rename(tmp_path / "LR" / "z.bmp")
    with pytest.raises(DataError, match="no pairs"):
        list_faces(config(tmp_path))


def test_another_partition_above_captures_nothing(tmp_path):
    make_celeba(tmp_path / "img_align_celeba", tmp_path / "list_eval_partition.txt", 3)
    (tmp_path / "mine").mkdir()
    ramp().save(tmp_path / "mine" / "x.png")
    assert list_faces(config(tmp_path / "mine")).layout == "folder"


def test_helen_s_landmarks_of_one_name_in_two_folders(tmp_path):
    """LFPW's train and test pictures have the same names."""
    for part, left in (("testset", 40.0), ("trainset", 140.0)):
        (tmp_path / part).mkdir()
        ramp(300, 300).save(tmp_path / part / "image_1.png")
        points = [(10.0, 10.0)] * 36 + [(left, 130.0)] * 6 + [(left + 60, 130.0)] * 6 + [(9.0, 9.0)] * 20
        rows = "\n".join(f"{x} {y}" for x, y in points)
        (tmp_path / part / "image_1.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")
    ramp(300, 300).save(tmp_path / "image_1.png")  # which of the two are its landmarks nobody knows
    listing = list_faces(config(tmp_path))
    boxes = {item.name: item.box for item in listing.splits["all"]}
    assert boxes == {
        "testset/image_1.png": (-30.0, 42.0, 170.0, 242.0),
        "trainset/image_1.png": (70.0, 42.0, 270.0, 242.0),
    }
    assert "2 landmark files" in listing.notes
    assert listing.warnings == [f"1 pictures in {tmp_path} have no landmarks and were left out"]


def test_celeba_s_editions_draw_the_same_faces(tmp_path, monkeypatch):
    monkeypatch.setattr(celeba, "CELEBA_TRAIN", 8)
    drawn = []
    for ending in ("jpg", "png"):
        root = tmp_path / ending
        make_celeba(root / "img_align_celeba", root / "list_eval_partition.txt", ending=ending, size=(8, 8))
        drawn.append([Path(item.name).stem for item in list_faces(config(root)).splits["train"]])
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 8


def test_what_a_partition_list_and_its_folder_lack_is_said(tmp_path, caplog):
    root = tmp_path / "celeba"
    make_celeba(root / "img_align_celeba", root / "list_eval_partition.txt", ending="png")
    (root / "img_align_celeba" / "000030.png").unlink()
    ramp(178, 218).save(root / "img_align_celeba" / "mine.png")
    (root / "img_align_celeba" / "other.heic").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        open_faces(config(root), "train")
        open_faces(config(root), "val")
    for words in (
        f"1 of the pictures that {root}/list_eval_partition.txt lists are not in {root}/img_align_celeba",
        f"1 pictures in {root}/img_align_celeba are not listed in {root}/list_eval_partition.txt and were left out",
        f"left out of {root}, as Pillow opens none of them here: 1 .heic",
    ):
        assert caplog.text.count(words) == 1, words  # once for both splits


def test_a_partition_list_that_is_not_used_is_said(tmp_path):
    make_celeba(tmp_path / "a" / "img_align_celeba", tmp_path / "a" / "list.txt", 3)
    listing = list_faces(config(tmp_path / "a"))
    assert listing.layout == "folder"
    assert "img_align_celeba is CelebA's, and its list_eval_partition.txt is not here" in listing.warnings[0]
    make_celeba(tmp_path / "b" / "pictures", tmp_path / "b" / "list_eval_partition.txt", 3)
    for i in range(4):
        ramp().save(tmp_path / "b" / "pictures" / f"mine_{i}.png")
    listing = list_faces(config(tmp_path / "b"))
    assert (listing.layout, len(listing.splits["all"])) == ("folder", 7)
    assert "list_eval_partition.txt was found and not used: it names few of the pictures" in listing.warnings[0]
    assert list_faces(config(tmp_path / "b", layout="folder")).warnings == []


def test_what_a_folder_holds_beside_pictures_is_counted(tmp_path, capsys):
    for i in range(3):
        ramp(130, 130).rotate(i).save(tmp_path / f"{i}.png")
    ramp(130, 130).save(tmp_path / "film.gif", save_all=True, append_images=[ramp(130, 130).rotate(180)])
    (tmp_path / "a.heic").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert check(CheckConfig(str(tmp_path))) == 0
    printed = capsys.readouterr().out
    assert "1 .heic, 1 .txt" in printed
    assert "1 files, of which the first is taken" in printed
    assert f"warning: left out of {tmp_path}, as Pillow opens none of them here: 1 .heic" in printed
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"whatever else Pillow opens\), also in subfolders, found 1 \.heic"):
        list_faces(config(tmp_path / "only"))


def test_pairs_and_shots_of_any_endings(tmp_path):
    (tmp_path / "p" / "HR").mkdir(parents=True)
    (tmp_path / "p" / "lr").mkdir()
    ramp(128, 128).save(tmp_path / "p" / "HR" / "a.JPG")
    ramp(16, 16).save(tmp_path / "p" / "lr" / "a.png")
    assert [item.name for item in list_faces(config(tmp_path / "p")).splits["all"]] == ["a.JPG"]
    (tmp_path / "s").mkdir()
    ramp(75, 100).save(tmp_path / "s" / "001_CAM1_1.TGA")
    assert list_faces(config(tmp_path / "s")).layout == "scface"
