"""Reading pictures, the degradation, tensors, augmentation."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from aminet_fast.data import (
    ImageError,
    center_crop,
    degrade,
    find_images,
    formats,
    images,
    read_image,
    to_image,
    to_tensor,
)
from aminet_fast.data.augment import POSED, augment, sample_box, sample_pose
from aminet_fast.data.formats import in_words, pictures_among
from aminet_fast.data.images import look_through, to_grey
from tests.harness.bad_files import make_zoo, ramp


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("zoo")
    return folder, make_zoo(folder)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_zoo_reads_or_says_why(zoo):
    folder, expected = zoo
    for name, want in expected.items():
        if want.reads:
            picture = read_image(folder / name)
            assert picture.rgb.mode == "RGB", name
            assert picture.rgb.size == want.size, name
            assert want.says in " ".join(picture.notes), (name, picture.notes)
        else:
            with pytest.raises(ImageError) as error:
                read_image(folder / name)
            assert want.says in error.value.reason, (name, error.value.reason)
            assert name.split("/")[-1] in str(error.value)


def test_zoo_is_found_whole_and_sorted(zoo):
    folder, expected = zoo
    found = [path.relative_to(folder).as_posix() for path in find_images(folder)]
    assert sorted(found) == sorted(expected)
    assert find_images(folder) == sorted(find_images(folder))


def test_pixels_survive_every_mode(zoo):
    folder, _ = zoo
    plain = np.asarray(ramp()).astype(int)
    for name, tolerance in (
        ("plain.png", 0),
        ("rgba.png", 0),
        ("icc.png", 0),
        ("plain.jpg", 12),
        ("exif_rotated.jpg", 12),
    ):
        got = np.asarray(read_image(folder / name).rgb).astype(int)
        assert np.abs(got - plain).max() <= tolerance, name
    grey = np.asarray(read_image(folder / "grey.png").rgb)
    assert (grey == np.asarray(ramp().convert("L"))[..., None]).all()


def test_sixteen_bits_are_scaled_not_clipped(zoo):
    folder, _ = zoo
    want = np.rint(np.linspace(0, 65535, 160).round() / 257)
    for name in ("grey16.png", "grey16.tif"):
        got = np.asarray(read_image(folder / name).rgb)
        assert (got == want[None, :, None]).all(), name
    color = np.asarray(read_image(folder / "rgb16.png").rgb).astype(int)
    assert np.abs(color[..., 0] - want).max() <= 1  # Pillow keeps the high byte
    assert set(color[..., 1].ravel().tolist()) <= {127, 128}


def test_sixteen_bits_take_little_memory():
    picture = Image.fromarray(np.full((1000, 1000), 40_000, np.uint16))
    tracemalloc.start()
    grey = to_grey("x.png", picture)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert grey.getextrema() == (156, 156)
    assert peak < 8 * 1000 * 1000


def test_alpha_and_profile_come_along(zoo):
    folder, _ = zoo
    want = np.tile(np.linspace(0, 255, 160).astype(np.uint8), (144, 1))
    for name in ("rgba.png", "la.png"):
        alpha = read_image(folder / name).alpha
        assert alpha is not None
        assert (np.asarray(alpha) == want).all(), name
    assert read_image(folder / "palette_transparent.png").alpha is not None
    assert read_image(folder / "plain.png").alpha is None
    assert read_image(folder / "icc.png").icc == b"not checked, only carried"


def test_grey_files_are_known(zoo):
    folder, expected = zoo
    grey = {name for name, want in expected.items() if want.reads and read_image(folder / name).grey}
    assert grey == {"grey.png", "one_bit.png", "la.png", "grey16.png", "grey16.tif"}


@pytest.mark.filterwarnings("error")
def test_a_limit_of_pixels_in_place_of_pillow_s(zoo, monkeypatch):
    folder, expected = zoo
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name, want in expected.items():
        if want.reads:
            width, height = want.size
            picture = read_image(folder / name, max_pixels=width * height)
            assert picture.rgb.size == want.size, name
            if width * height > 100:
                with pytest.raises(ImageError, match=r"is too large \(.* pixels"):
                    read_image(folder / name, max_pixels=width * height - 1)
        else:
            with pytest.raises(ImageError):
                read_image(folder / name, max_pixels=23040)
    with pytest.raises(ImageError, match="is too large"):
        read_image(folder / "plain.png")
    with pytest.raises(ImageError, match=r"bomb\.png: is too large \(60000x60000 pixels, limit 23040\)"):
        read_image(folder / "bomb.png", max_pixels=23040)
    monkeypatch.undo()
    for name in ("plain.jpg", "exif_rotated.jpg", "palette_transparent.png", "animated.gif"):
        usual, unusual = read_image(folder / name), read_image(folder / name, max_pixels=23040)
        assert unusual.rgb.tobytes() == usual.rgb.tobytes()
        assert (unusual.notes, unusual.icc, unusual.grey) == (usual.notes, usual.icc, usual.grey)


@pytest.mark.parametrize(
    ("values", "reason"),
    [(np.full((8, 8), 1e6, np.float32), "has values"), (np.full((8, 8), -3, np.int32), "has values")],
)
def test_unclear_ranges_are_refused(tmp_path, values, reason):
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=reason):
        read_image(tmp_path / "x.tif")


def test_float_pictures(tmp_path):
    Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)).save(tmp_path / "x.tif")
    assert np.asarray(read_image(tmp_path / "x.tif").rgb)[..., 0].ravel().tolist() == list(range(256))


def test_unreadable_file(tmp_path, monkeypatch):
    ramp().save(tmp_path / "x.png")

    def refuse(*_: object, **__: object) -> None:  # root may read everything, so the refusal is made
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(images, "open", refuse, raising=False)
    for limit in (None, 100):
        with pytest.raises(ImageError, match="may not be read"):
            read_image(tmp_path / "x.png", max_pixels=limit)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        read_image(tmp_path / "x.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        find_images(tmp_path / "nowhere")


def test_links_to_folders_end(tmp_path):
    (tmp_path / "a").mkdir()
    ramp().save(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert find_images(tmp_path) == [tmp_path / "a" / "x.png"]


def test_image_error_pickles():
    error = pickle.loads(pickle.dumps(ImageError(Path("a.png"), "is empty")))
    assert (error.path, error.reason, str(error)) == ("a.png", "is empty", "a.png: is empty")


def test_center_crop_of_celeba():
    celeba = ramp(178, 218)
    assert center_crop(celeba).tobytes() == celeba.crop((0, 20, 178, 198)).tobytes()
    assert center_crop(celeba, 100).tobytes() == celeba.crop((39, 59, 139, 159)).tobytes()
    assert center_crop(celeba, 500).size == (178, 178)


def test_degrade_is_pillows_bicubic():
    hr = ramp(128, 128)
    lr, up = degrade(hr)
    assert lr.tobytes() == hr.resize((16, 16), Image.Resampling.BICUBIC).tobytes()
    assert up.tobytes() == lr.resize((128, 128), Image.Resampling.BICUBIC).tobytes()
    with pytest.raises(ValueError, match="100x128 and scale 8"):
        degrade(ramp(100, 128))


def test_tensor_roundtrip_is_exact():
    pixels = np.arange(256 * 3, dtype=np.int64).reshape(16, 16, 3) % 256
    image = Image.fromarray(pixels.astype(np.uint8))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 16, 16)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert (float(tensor.min()), float(tensor.max())) == (-1.0, 1.0)
    assert float(tensor[1, 2, 3]) == pytest.approx(pixels[2, 3, 1] / 127.5 - 1, abs=1e-6)
    assert to_image(tensor).tobytes() == image.tobytes()
    assert to_image(tensor * 3).getpixel((0, 0)) == (0, 0, 0)
    # 0 is exactly level 127.5, and half goes to even
    assert to_image(torch.full((3, 1, 1), 0.0)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("bad", [torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8), torch.full((3, 4, 4), float("nan"))])
def test_to_image_refuses(bad):
    with pytest.raises(ValueError, match="to_image"):
        to_image(bad)


def test_augment_is_a_function_of_the_seed():
    face = ramp(128, 128)
    first = [augment(face, seed).tobytes() for seed in range(40)]
    assert first == [augment(face, seed).tobytes() for seed in range(40)]
    assert len(set(first)) == 40
    flips = [augment(face, seed, "flip").tobytes() for seed in range(400)]
    mirrored = face.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
    assert set(flips) == {face.tobytes(), mirrored}
    assert 160 <= flips.count(mirrored) <= 240


def test_a_pose_turns_scales_and_shifts_about_two_of_three_faces():
    """A white spot on grey is where the drawn similarity has it, and the grey goes on beyond the picture's border."""
    pixels = np.full((128, 128, 3), 90, np.uint8)
    pixels[38:42, 88:92] = 255
    moved = [np.asarray(augment(Image.fromarray(pixels), seed, "pose"), float) for seed in range(200)]
    still = {pixels.tobytes(), np.ascontiguousarray(pixels[:, ::-1]).tobytes()}
    assert 45 <= sum(levels.astype(np.uint8).tobytes() in still for levels in moved) <= 90
    rows, columns = np.mgrid[:128, :128] + 0.5
    for seed, levels in enumerate(moved):
        rng = np.random.Generator(np.random.PCG64(seed))
        flipped, turn, origin = rng.random() < 0.5, 1, 0
        if rng.random() < POSED:
            turn, origin = sample_pose(rng, 128, 128)
        wanted = (90 + 40j - origin) / turn
        wanted = complex(128 - wanted.real, wanted.imag) if flipped else wanted
        light = np.clip(levels[..., 0] - 95, 0, None)
        light[abs(columns + 1j * rows - wanted) > 10] = 0  # mirror images of the spot lie farther away
        found = (light * (columns + 1j * rows)).sum() / light.sum()
        assert abs(found - wanted) < 0.3, seed
        assert levels.min() > 60, seed  # bicubic's undershoot; a border would be 0
    assert augment(Image.fromarray(pixels), 3, "pose").tobytes() == moved[3].astype(np.uint8).tobytes()


def test_poses_stay_in_their_ranges():
    rng = np.random.default_rng(0)
    poses = [sample_pose(rng, 128, 128) for _ in range(4000)]
    turns = np.array([turn for turn, _ in poses])
    rolls, sizes = np.degrees(np.angle(1 / turns)), 1 / np.abs(turns)
    assert (rolls.min(), rolls.max()) == pytest.approx((-30, 30), abs=0.1)
    assert (sizes.min(), sizes.max()) == pytest.approx((0.6, 1.2), abs=0.003)
    middles = np.array([(64 + 64j - origin) / turn for turn, origin in poses]) - (64 + 64j)
    for axis in (middles.real, middles.imag):
        assert (axis.min(), axis.max()) == pytest.approx((-8, 8), abs=0.05)


def test_boxes_have_torchvisions_area_and_ratio():
    rng = np.random.default_rng(0)
    boxes = np.array([sample_box(rng, 128, 128) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert boxes.max() <= 128
    area = width * height / 128**2
    assert 0.68 <= area.min() < 0.72
    assert area.max() <= 1
    assert (width / height).min() > 0.73
    assert (width / height).max() < 1.36
    assert sample_box(rng, 400, 10) == (193, 0, 206, 10)  # no box fits: the largest middle one of ratio 4/3


def test_every_picture_of_a_folder_is_taken_and_the_rest_counted(tmp_path):
    """By the endings that people have; whichever of these vanished from a folder did so without a word."""
    kinds = ["jfif", "jpe", "JPG", "png", "PNG", "tga", "gif", "ico", "ppm", "pgm", "bmp", "dib", "TIFF", "webp"]
    kinds += [name for name, feature in (("jp2", "jpg_2000"), ("avif", "avif")) if features.check(feature)]
    for kind in kinds:
        ramp(64, 48).save(tmp_path / f"{kind}_{kind.isupper()}.{kind}", sizes=[(64, 48)])
    others = ["a.heic", "b.HEIC", "c.svg", "list.txt", "noending", "d.eps", ".DS_Store", "Thumbs.db", "._x.jpg"]
    for name in others:
        (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    found = look_through(tmp_path)
    assert len(found.pictures) == len(kinds)
    assert found.left_out == {".heic": 2, ".svg": 1, ".txt": 1, ".eps": 1, "without ending": 1}
    assert pictures_among(found.left_out) == {".heic": 2, ".svg": 1, ".eps": 1}
    assert in_words(found.left_out) == "2 .heic, 1 .eps, 1 .svg, 1 .txt, 1 without ending"
    plain = np.asarray(ramp(64, 48)).astype(int)
    for path in found.pictures:
        picture = read_image(path).rgb
        if path.suffix not in (".gif", ".pgm"):  # a palette, no colours
            assert np.abs(np.asarray(picture).astype(int) - plain).max() <= 16, path
    with pytest.raises(ImageError, match=r"no picture that Pillow knows; \.eps is a program that Ghostscript"):
        read_image(tmp_path / "d.eps")
    with pytest.raises(ImageError, match=r"no picture that Pillow knows; this Pillow opens no \.heic: save it as PNG"):
        read_image(tmp_path / "a.heic")


def test_a_picture_is_known_by_what_is_in_it(tmp_path):
    for name in ("noending", "wrong.txt", "wrong.heic", "wrong.jpg"):
        ramp(64, 48).save(tmp_path / name, "PNG")
        assert find_images(tmp_path / name) == [tmp_path / name]
        assert (np.asarray(read_image(tmp_path / name).rgb) == np.asarray(ramp(64, 48))).all()


def test_of_several_frames_the_first_is_taken_and_that_is_said(tmp_path):
    for name in ("film.gif", "pages.tif", "film.webp", "film.png"):
        ramp(64, 48).save(tmp_path / name, save_all=True, append_images=[ramp(64, 48).rotate(180)])
        assert "first of several frames" in read_image(tmp_path / name).notes, name


def test_a_format_that_a_plugin_brings_is_taken(tmp_path, monkeypatch):
    (tmp_path / "x.heic").write_bytes(b"P6 1 1 255\n\x01\x02\x03")
    assert find_images(tmp_path) == []
    formats.suffixes()  # Pillow's own are registered by now
    monkeypatch.setitem(Image.EXTENSION, ".heic", "PPM")
    assert find_images(tmp_path) == [tmp_path / "x.heic"]
    assert look_through(tmp_path).left_out == {}
