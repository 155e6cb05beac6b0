"""A photograph in, the photograph out: what is restored, what is left out and why, and that nothing else changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aminet_fast.restoration import (
    Face,
    FaceNetwork,
    Restored,
    RestoreOptions,
    photograph,
    restore_photograph,
    restore_photographs,
)
from aminet_fast.restoration.align import DEFAULT, pose_of
from aminet_fast.restoration.faces import SHAPE
from aminet_fast.restoration.paste import Patch, ellipse, enlarge_photograph, paste
from aminet_fast.restoration.photograph import visible
from tests.restoration.charts import ChartReader, chart, planted
from tests.restoration.inputs import assert_same, noise

PICTURE = noise(30, 20).resize((120, 80), Image.Resampling.BICUBIC).point(lambda level: 64 + level // 2)
FACE = planted(60.3, 34.8, 6, roll=12)


class Painter(nn.Module):
    """Adds a pattern of 30 levels, and colour."""

    def __init__(self, colour: float = 40.0) -> None:
        super().__init__()
        self.colour = colour

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + 30 / 127.5 * torch.sign(torch.sin(torch.arange(x.shape[-1]) * 1.1))
        y[:, 0] += self.colour / 127.5
        return y


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float)


def averages(image: Image.Image, scale: int) -> np.ndarray:
    pixels = levels(image)
    return pixels.reshape(pixels.shape[0] // scale, scale, pixels.shape[1] // scale, scale, -1).mean((1, 3))


def inside(face: Face, size: tuple[int, int]) -> np.ndarray:
    """The photograph's pixels in which the face counts in full."""
    pose = pose_of(face, DEFAULT)
    parts = [
        ellipse(pose, DEFAULT, x, y, size[0], size[1], 1) for x in (0, 1) for y in (0, 1)
    ]  # also where its neighbours' pixels do
    return np.min(parts, axis=0) == 1


def restored(
    image: Image.Image = PICTURE, found: list[Face] | None = None, model: nn.Module | None = None, **options: Any
) -> Restored:
    return restore_photograph(model or Painter(), image, detector=[FACE] if found is None else found, **options)


@pytest.mark.parametrize(("scale", "eyes"), [(2, 3.5), (8, 3.5), (3, 6), (4, 6), (5, 6), (7, 6)])
def test_the_faces_averages_are_the_photographs(scale: int, eyes: float) -> None:
    face = planted(60.3, 34.8, eyes, roll=-17)
    result = restored(found=[face], scale=scale)
    assert result.image.size == (120 * scale, 80 * scale)
    counts = inside(face, PICTURE.size)
    assert counts.sum() > eyes**2
    assert np.abs(averages(result.image, scale) - levels(PICTURE))[counts].max() < 1
    around = ellipse(pose_of(face, DEFAULT), DEFAULT, 0, 0, 120 * scale, 80 * scale, scale) == 0
    assert np.array_equal(levels(result.image)[around], levels(result.before)[around])
    assert np.abs(levels(result.image) - levels(result.before)).max() > 8


@pytest.mark.parametrize("scale", [2, 4, 5])
def test_of_a_larger_face_what_the_photograph_knows_is_kept(scale: int) -> None:
    """Its averages come close, though the network saw fewer pixels."""
    face = planted(60.3, 34.8, 20, roll=-17)
    counts = inside(face, PICTURE.size)
    result = restored(found=[face], model=nn.Identity(), scale=scale)
    missed = np.abs(averages(result.image, scale) - levels(PICTURE))[counts]
    blurred = PICTURE.resize((40, 27), Image.Resampling.BICUBIC).resize((120, 80), Image.Resampling.BICUBIC)
    assert missed.mean() < 0.25 * np.abs(levels(blurred) - levels(PICTURE))[counts].mean()


def test_colour_that_the_network_adds_is_taken_away() -> None:
    grey = PICTURE.convert("L").convert("RGB")
    pixels = levels(restored(grey, model=Painter(60)).image)
    assert np.abs(pixels - pixels[..., :1]).max() <= 2
    large = levels(restored(grey, [planted(60, 34, 20)], model=Painter(60)).image)
    assert np.abs(large - large[..., :1]).max() <= 2


def test_blend_of_nothing_is_the_enlarged_photograph() -> None:
    for background, resampling in (("lanczos", 1), ("bicubic", 3), ("none", 0)):
        result = restored(blend=0.0, background=background)
        assert_same(result.image, PICTURE.resize((480, 320), Image.Resampling(resampling)))
        assert_same(result.image, result.before)
    full, half = (levels(restored(blend=share).image) for share in (1.0, 0.5))
    assert np.abs(half - (full + levels(restored().before)) / 2).max() <= 1


@pytest.mark.parametrize("place", [(3, 3), (117, 40), (60, 75), (116, 73)])
def test_faces_at_the_border(place: tuple[int, int]) -> None:
    face = planted(*place, 6)
    result = restored(found=[face])
    (one,) = result.faces
    assert one.status == "restored"
    assert one.lr is not None
    assert one.lr.size[0] >= 16
    counts = inside(face, PICTURE.size)
    assert np.abs(averages(result.image, 4) - levels(PICTURE))[counts].max() < 1
    assert not np.array_equal(levels(result.image), levels(result.before))


def test_the_larger_of_two_faces_lies_above() -> None:
    small, large = planted(52, 34, 5), planted(60, 35, 8)
    both, alone = restored(found=[large, small]), restored(found=[large])
    counts = ellipse(pose_of(large, DEFAULT), DEFAULT, 0, 0, 480, 320, 4) == 1
    assert np.array_equal(levels(both.image)[counts], levels(alone.image)[counts])
    assert not np.array_equal(levels(both.image), levels(alone.image))
    assert [one.face for one in both.faces] == [small, large]  # numbers are by position


def test_what_is_told_of_a_face() -> None:
    (one,) = restored().faces
    assert (one.number, one.face, one.status, one.reason) == (1, FACE, "restored", None)
    assert one.lr is not None
    assert one.bicubic is not None
    assert one.restored is not None
    assert one.lr.size == (20, 20)
    assert one.bicubic.size == one.restored.size == (160, 160)
    assert one.scale == pytest.approx(6 / 0.33 / 20)
    assert np.abs(averages(one.restored, 8) - levels(one.lr)).max() < 1
    small = restored(found=[planted(60, 34, 4)]).faces[0]
    assert small.lr is not None
    assert small.lr.size == (16, 16)
    assert small.scale == pytest.approx(4 / 0.33 / 16)


def test_why_faces_are_left_out() -> None:
    picture = noise(200, 520)
    faces = [
        planted(60, 40, 8),
        planted(60, 100, 8, roll=-57),
        planted(60, 160, 1.5),
        planted(60, 220, 25),
        planted(202, 280, 12, roll=10),
        planted(60, 340, 8, score=0.7),
        planted(60, 400, 8, score=0.8),
        planted(60, 460, 8, score=0.3),
    ]
    result = restored(picture, faces, scale=2, max_faces=2)
    assert [(one.number, one.status, one.reason) for one in result.faces] == [
        (1, "restored", None),
        (2, "left out", "turned by 57 degrees (up to 30 are restored)"),
        (3, "left out", "too small: eyes 1.5 pixels apart (at least 2)"),
        (4, "left out", "too large: eyes 25 pixels apart (at most 21: it has more detail than is added)"),
        (5, "left out", "cut off by the picture's border"),
        (6, "left out", "more than max_faces (2)"),
        (7, "restored", None),
    ]
    left_out = [one for one in result.faces if one.status == "left out"]
    assert all(one.lr is one.bicubic is one.restored is one.scale is None for one in left_out)
    chosen = restored(picture, faces, scale=2, faces=(6, 2))
    assert [one.reason for one in chosen.faces][:2] == ["not chosen", "turned by 57 degrees (up to 30 are restored)"]
    assert [one.number for one in chosen.faces if one.status == "restored"] == [6]
    assert [one.status for one in restored(picture, faces, scale=2, max_faces=0).faces] == ["left out"] * 7
    with pytest.raises(ValueError, match="faces names 8, 9, and 7 faces were found"):
        restored(picture, faces, faces=(1, 8, 9))
    for found, words in (([], "no face was found"), ([FACE], "one face was found")):
        with pytest.raises(ValueError, match=f"faces names 3, and {words}"):
            restored(found=found, faces=(3,))


MODES = {
    "L": ("L", PICTURE.convert("L")),
    "LA": ("LA", PICTURE.convert("LA")),
    "RGBA": ("RGBA", PICTURE.convert("RGBA")),
    "P": ("RGB", PICTURE.quantize(64)),
    "1": ("L", PICTURE.convert("1")),
    "I;16": ("L", Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257)),
    "I": ("L", Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.int32) * 257)),
    "F": ("L", Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.float32) / 255)),
    "CMYK": ("RGB", PICTURE.convert("CMYK")),
}


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_any_mode(mode: str) -> None:
    wanted, picture = MODES[mode]
    assert picture.mode == mode
    result = restored(picture, scale=2)
    assert result.image.mode == result.before.mode == wanted
    assert result.image.size == result.before.size == (240, 160)
    if mode in ("L", "LA", "I;16", "I", "F"):
        grey = levels(PICTURE.convert("L"))
        assert np.abs(averages(result.image, 2)[..., 0] - grey)[inside(FACE, PICTURE.size)].max() < 1.01
    if wanted == "RGBA":
        assert_same(result.image.convert("RGB"), restored(scale=2).image)


def test_alpha_is_enlarged_with_the_picture() -> None:
    picture, alpha = PICTURE.copy(), noise(120, 80, "L")
    picture.putalpha(alpha)
    result = restored(picture, scale=2)
    assert_same(result.image.getchannel("A"), alpha.resize((240, 160), Image.Resampling.LANCZOS))
    assert_same(result.image.convert("RGB"), restored(scale=2).image)
    palette = PICTURE.quantize(8)
    palette.info["transparency"] = 0
    assert restored(palette, scale=2).image.mode == "RGBA"


def test_the_same_twice_and_together() -> None:
    other = noise(50, 60)
    faces = [[FACE, planted(20, 40, 4)], [planted(25, 30, 9, roll=-20)]]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh())
    together = restore_photographs(model, [PICTURE, other], detector=faces, batch_size=4)
    alone = [restore_photograph(model, p, detector=f) for p, f in zip((PICTURE, other), faces, strict=True)]
    for a, b in zip(together, alone, strict=True):
        assert np.abs(levels(a.image) - levels(b.image)).max() <= 1  # convolutions of other batches, other sums
    again = restore_photographs(model, [PICTURE, other], detector=faces, batch_size=4)
    for a, b in zip(together, again, strict=True):
        assert_same(a.image, b.image)
    painted = restore_photographs(Painter(), [PICTURE, other, PICTURE], detector=[*faces, []])
    assert_same(painted[0].image, restored(found=faces[0]).image)
    assert_same(painted[2].image, enlarge_photograph(PICTURE, 4))
    assert restore_photographs(model, []) == []


def test_many_faces_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    faces = [planted(20 + 20 * n, 30, 4) for n in range(5)]
    whole = restored(found=faces)
    monkeypatch.setattr(photograph, "_TOGETHER", 2)
    assert_same(restored(found=faces).image, whole.image)


def test_found_by_a_detector() -> None:
    face = planted(40, 40, 6)
    picture = chart((90, 80), [face])
    result = restore_photograph(nn.Identity(), picture, detector=ChartReader(), scale=2)
    assert len(result.faces) == 1
    assert abs(result.faces[0].face.centre - face.centre) < 0.5
    empty = restore_photograph(nn.Identity(), PICTURE.convert("L"), detector=lambda image: [], scale=3)
    assert empty.faces == []
    assert_same(empty.image, enlarge_photograph(PICTURE.convert("L").convert("RGB"), 3).convert("L"))


def test_a_network_may_be_used_again() -> None:
    network = FaceNetwork(Painter(), batch_size=2)
    first, second = (restore_photograph(network, PICTURE, detector=[FACE]) for _ in range(2))
    assert_same(first.image, second.image)
    assert_same(first.image, restored().image)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Identity()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    restored(model=model)
    assert model.training
    assert model[0].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 1}, "scale is 1, wanted a whole number from 2 to 8"),
        ({"scale": 9}, "scale is 9"),
        ({"scale": 2.0}, r"scale is 2\.0"),
        ({"scale": True}, "scale is True"),
        ({"faces": ()}, "faces is"),
        ({"faces": (0,)}, "faces is"),
        ({"faces": (1.0,)}, "faces is"),
        ({"min_score": 1.1}, r"min_score is 1\.1, wanted 0 to 1"),
        ({"blend": -0.1}, "blend is"),
        ({"blend": float("nan")}, "blend is nan"),
        ({"max_faces": -1}, "max_faces is -1"),
        ({"background": "blurred"}, "background is 'blurred', wanted one of lanczos, bicubic, none"),
        ({"ensemble": "rotate"}, "ensemble"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        restored(**options)
    assert "\n" not in str(raised.value)


def test_calls_that_are_none() -> None:
    with pytest.raises(TypeError, match="has no option sclae; it takes autocast, background"):
        restored(sclae=2)
    with pytest.raises(TypeError, match="images is one picture"):
        restore_photographs(Painter(), PICTURE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="faces of 1 pictures, wanted a list for each of 2"):
        restore_photographs(Painter(), [PICTURE, PICTURE], detector=[[FACE]])
    with pytest.raises(TypeError, match="wanted a PIL picture"):
        restored("a.png")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        restored(model=nn.Sequential(nn.Threshold(9, float("nan"))))
    assert RestoreOptions(faces=[3, 1]).faces == (3, 1)  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        RestoreOptions().scale = 2  # type: ignore[misc]


def test_pasting_rounds_once_and_stays_within_the_levels() -> None:
    picture = Image.new("RGB", (4, 3), (100, 100, 100))
    patch = Patch(1, 1, np.full((2, 2, 3), 301.0, np.float32), np.array([[1, 0.5], [0.1, 0]], np.float32))
    paste(picture, patch)
    assert np.asarray(picture)[1:, 1:3, 0].tolist() == [[255, 178], [116, 100]]  # 177.5 and 115.5, to even
    assert np.asarray(picture)[0].max() == 100


def test_a_corner_a_hair_inside_of_a_pixel() -> None:
    """Its levels begin a millionth of a pixel beyond the box, where Pillow would refuse it."""
    points = tuple((10 * z.real + 23.9393944, 10 * z.imag + 30) for z in SHAPE)
    face = Face((10, 20, 40, 50), 0.9, points)
    (found,) = restore_photograph(Painter(), noise(80, 80), detector=[face], scale=2).faces
    assert found.status == "restored"


def test_the_ellipse_lies_over_the_face() -> None:
    share = ellipse(pose_of(planted(50, 40, 10, 90), DEFAULT), DEFAULT, 0, 0, 100, 80, 1)
    assert share.dtype == np.float32
    assert (share.min(), share.max()) == (0, 1)
    y, x = np.nonzero(share == 1)
    assert (x.mean() + 0.5, y.mean() + 0.5) == pytest.approx((50 - 3.5, 40), abs=0.5)  # turned, the chin is at the left
    assert np.ptp(x) == pytest.approx(2 * 0.62 * 15.5, abs=2)


def test_how_much_of_a_face_is_visible() -> None:
    """Also of one that is far larger than the picture, in little memory."""
    picture = Image.new("L", (200, 100))
    whole, half = planted(100, 50, 5), planted(0, 50, 5)
    assert visible(pose_of(whole, DEFAULT), DEFAULT, picture) == 1
    assert visible(pose_of(half, DEFAULT), DEFAULT, picture) == pytest.approx(0.5, abs=0.03)
    assert visible(pose_of(planted(100, 50, 50_000), DEFAULT), DEFAULT, picture) < 0.001
