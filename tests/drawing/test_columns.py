"""Panels of several columns, and several heatmaps of a sample: where each pixel stands."""

import cv2
import numpy as np
import pytest
from skimage import data

from keras_cam_callbacks.drawing import columns
from keras_cam_callbacks.drawing import text as captions
from keras_cam_callbacks.drawing.grids import grid, grid_placed
from keras_cam_callbacks.drawing.overlay import Overlay, colorize

GREY = np.full((160, 160, 3), 100, np.uint8)
STEP = np.repeat([[0.0, 1.0]], 80, axis=1).repeat(160, axis=0).astype(np.float32)
BAR = 17 + 6  # px: a line of 13 px letters takes 1.3 times as much; half a letter is left below


@pytest.fixture(params=["TrueType", "strokes"])
def font(request, monkeypatch):
    if request.param == "strokes":
        monkeypatch.setattr(captions, "_font", lambda: None)
    elif not hasattr(cv2, "FontFace"):
        pytest.skip("OpenCV 4 has no TrueType fonts")


@pytest.fixture
def titles(monkeypatch):
    """The lines of each title that is written, in order."""
    written = []
    write = columns.write
    monkeypatch.setattr(columns, "write", lambda bar, lines, *rest: written.append(lines) or write(bar, lines, *rest))
    return written


def plain(value, height=160, width=160):
    return np.full((height, width, 3), value, np.uint8)


def ink(bar):
    """Leftmost and rightmost dark pixel of a bar."""
    dark = np.flatnonzero((bar < 128).all(axis=2).any(axis=0))
    return dark[0], dark[-1]


# A panel with images beside


def test_five_columns_by_hand(titles):
    beside = {"original": [plain(10, 320, 480)], "model input": [plain(20, 16, 16)]}
    settings = Overlay(layout="panel")
    (picture,) = settings.draw([GREY], STEP[None], beside=beside, title="Ben Graham")
    # Halved to 160 x 240; enlarged to 160 x 160; image, heatmap, overlay; four gaps of 4.
    assert picture.shape == (160 + BAR, 240 + 4 * 160 + 4 * 4, 3)
    expected = plain(255, 160, 896)
    expected[:, :240] = 10
    expected[:, 244:404] = 20
    expected[:, 408:] = settings.draw([GREY], STEP[None])[0]  # The panel as it is without further columns.
    np.testing.assert_array_equal(picture[:160], expected)
    assert titles == [["original"], ["model input"], ["Ben Graham"], ["heatmap"], ["overlay"]]


def test_titles_stand_centred_under_their_columns(font):
    beside = {"photograph": [plain(10, 100, 200)]}
    (picture,) = Overlay(layout="panel").draw([GREY], STEP[None], beside=beside)
    bar = picture[160:]
    for left, width in ((0, 320), (324, 160), (488, 160), (652, 160)):
        first, last = ink(bar[:, left : left + width])
        assert last - first > 20
        assert abs((first + last) / 2 - width / 2) <= 3


def test_columns_of_one_title_have_one_width():
    """Photographs of any aspect: all get the width of the widest, and pictures of equal images equal sizes."""
    photos = [plain(0, 100, 200), plain(0, 200, 100), plain(0, 50, 50)]
    pictures = Overlay(layout="panel").draw([GREY] * 3, np.stack([STEP] * 3), beside={"photo": photos})
    assert {picture.shape for picture in pictures} == {(160 + BAR, 320 + 4 + 488, 3)}
    for picture, first, last in zip(pictures, (0, 120, 80), (320, 200, 240), strict=True):
        black = np.flatnonzero((picture[:160, :320] == 0).all(axis=(0, 2)))
        assert (black[0], black[-1] + 1, len(black)) == (first, last, last - first)
        assert (picture[:160, :first] == 255).all()
        assert (picture[:160, last:324] == 255).all()


def test_images_of_different_sizes_have_columns_of_their_own_height():
    images = [plain(50, 160, 200), plain(50, 320, 200)]
    pictures = Overlay(layout="panel").draw(images, np.stack([STEP] * 2), beside={"photo": [plain(0, 9, 9)] * 2})
    assert [picture.shape[:2] for picture in pictures] == [(160 + BAR, 160 + 612), (320 + BAR, 320 + 612)]


def test_photographs_are_shrunk_by_area_and_enlarged_smoothly():
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::4] = 200
    (picture,) = Overlay(layout="panel").draw([GREY], STEP[None], beside={"photo": [stripes]})
    assert (picture[:160, :160] == 50).all()
    cat = cv2.resize(data.chelsea(), (80, 80), interpolation=cv2.INTER_AREA)
    (picture,) = Overlay(layout="panel").draw([GREY], STEP[None], beside={"photo": [cat]})
    np.testing.assert_array_equal(picture[:160, :160], cv2.resize(cat, (160, 160), interpolation=cv2.INTER_CUBIC))


@pytest.mark.parametrize("beside", [None, {}])
def test_a_panel_without_further_columns_has_no_titles(beside, titles):
    (picture,) = Overlay(layout="panel").draw([GREY], STEP[None], ["cat"], beside=beside, title="Ben Graham")
    np.testing.assert_array_equal(picture, Overlay(layout="panel").draw([GREY], STEP[None], ["cat"])[0])
    assert titles == []


@pytest.mark.parametrize("layout", ["overlay", "mask"])
def test_other_layouts_have_no_further_columns(layout):
    settings = Overlay(layout=layout)
    (picture,) = settings.draw([GREY], STEP[None], ["cat"], beside={"photo": [plain(0)]})
    np.testing.assert_array_equal(picture, settings.draw([GREY], STEP[None], ["cat"])[0])
    maps = {"a": STEP[None]}
    (picture,) = settings.draw_several([GREY], maps, beside={"photo": [plain(0)]})
    np.testing.assert_array_equal(picture, settings.draw_several([GREY], maps)[0])


def test_a_caption_stands_under_the_titles():
    settings = {"beside": {"photo": [plain(0)]}}
    (bare,) = Overlay(layout="panel").draw([GREY], STEP[None], **settings)
    (picture,) = Overlay(layout="panel").draw([GREY], STEP[None], ["cat"], **settings)
    np.testing.assert_array_equal(picture[: len(bare)], bare)
    assert len(picture) == len(bare) + 2 * 17 + 6
    assert ink(picture[len(bare) :])[0] < 10
    (without,) = Overlay(layout="panel", caption=False).draw([GREY], STEP[None], ["cat"], **settings)
    np.testing.assert_array_equal(without, bare)


def test_narrow_columns_get_margins_for_their_titles():
    image = plain(100, 400, 20)
    (picture,) = Overlay(layout="panel").draw([image], STEP[None], beside={"photo": [plain(0, 100, 10)]})
    # Letters of 13 px: a column is at least six of them wide.
    assert picture.shape == (400 + BAR, 4 * 78 + 3 * 4, 3)
    assert (picture[:400, :19] == 255).all()
    assert not picture[:400, 19:59].any()
    assert (picture[:400, 59 : 82 + 29] == 255).all()
    assert (picture[:400, 82 + 29 : 82 + 49] == 100).all()


@pytest.mark.parametrize("side", [64, 512])
def test_text_of_titles_grows_with_the_image(side, titles):
    (picture,) = Overlay(layout="panel").draw([plain(100, side, side)], STEP[None], beside={"photo": [plain(0)]})
    shown, letters = (192, 13) if side == 64 else (512, 34)
    assert picture.shape == (shown + round(letters * 1.3) + letters // 2, 4 * shown + 12, 3)


# Several heatmaps of a sample


def test_several_overlays_by_hand(titles):
    maps = {"gradcam": STEP[None], "layercam": STEP[None, :, ::-1], "saliency": STEP[None, :7, 70:90]}
    (picture,) = Overlay().draw_several([GREY], maps)
    assert picture.shape == (160 + 2 * 17 + 6, 4 * 160 + 3 * 4, 3)  # There is always room for two lines of a title.
    np.testing.assert_array_equal(picture[:160, :160], GREY)
    for left, each in zip((164, 328, 492), maps.values(), strict=True):
        np.testing.assert_array_equal(picture[:160, left : left + 160], Overlay().draw([GREY], each)[0])
        assert (picture[:160, left - 4 : left] == 255).all()
    assert titles == [["image"], ["gradcam"], ["layercam"], ["saliency"]]


def test_several_masks():
    settings = Overlay(layout="mask")
    (picture,) = settings.draw_several([GREY], {"a": STEP[None]})
    np.testing.assert_array_equal(picture[:160, 164:], settings.draw([GREY], STEP[None])[0])


def test_several_panels_by_hand(titles):
    settings = Overlay(layout="panel", threshold=0.5)
    beside = {"photo": [plain(10, 80, 40)]}
    maps = {"one": STEP[None], "two": STEP[None, :, ::-1]}
    (picture,) = settings.draw_several([GREY], maps, beside=beside, title="input")
    # Gaps of 12 between names, of 4 between heatmap and overlay.
    assert picture.shape == (160 + 40, 80 + 12 + 160 + 2 * (12 + 324), 3)
    expected = plain(255, 160, 924)
    expected[:, :80] = 10
    expected[:, 92:252] = GREY
    for left, each in ((264, maps["one"]), (600, maps["two"])):
        expected[:, left : left + 324] = settings.draw([GREY], each)[0][:, 164:]
    np.testing.assert_array_equal(picture[:160], expected)
    np.testing.assert_array_equal(picture[:160, 264:424], colorize((STEP * 255).astype(np.uint8)))
    assert titles == [["photo"], ["input"], ["one"], ["two"]]


def test_batch_scale_counts_for_each_name():
    maps = {"strong": np.stack([STEP * 100, STEP * 50]), "weak": np.stack([STEP, STEP / 2])}
    first, second = Overlay(scale="batch", alpha=1).draw_several([GREY] * 2, maps)
    for picture, tone in ((first, 255), (second, 128)):
        for left in (164, 328):
            assert (picture[:160, left + 80 : left + 160] == colorize(np.array([[tone]], np.uint8))[0, 0]).all()


def test_titles_of_each_sample(titles):
    maps = {"true": np.stack([STEP] * 2), "layercam": np.stack([STEP] * 2)}
    Overlay().draw_several([GREY] * 2, maps, titles={"true": ["true: cat 0.10", "true: dog 0.98"]})
    assert titles == [["image"], ["true: cat 0.10"], ["layercam"], ["image"], ["true: dog 0.98"], ["layercam"]]


@pytest.mark.parametrize("layout", ["overlay", "mask", "panel"])
def test_a_degenerate_map_is_the_bare_image_and_its_title_says_so(layout, titles):
    maps = {"gradcam": np.stack([STEP] * 2), "layercam": np.stack([STEP, np.zeros_like(STEP)])}
    first, second = Overlay(layout=layout).draw_several([GREY] * 2, maps)
    assert first.shape == second.shape
    np.testing.assert_array_equal(second[:160, -160:], GREY)
    np.testing.assert_array_equal(second[:160, :-336], first[:160, :-336])
    assert titles == [["image"], ["gradcam"], ["layercam"], ["image"], ["gradcam"], ["layercam: no heatmap"]]


LONG = "predicted: short-haired Egyptian tabby cat of unknown age and descent 0.98"


def test_that_there_is_no_heatmap_is_said_under_long_titles_too(font, titles):
    for text, width in (("true: tiger cat 0.10", 160), (LONG, 160), (LONG, 20), ("", 20)):
        titles.clear()
        settings = {"titles": {"a": [text]}}
        Overlay().draw_several([plain(0, 400, width)], {"a": np.zeros((1, 4, 4))}, **settings)
        assert 1 <= len(titles[1]) <= 2
        assert titles[1][-1].endswith("no heatmap")
        assert all(captions.text_width(line, 13) <= max(width, 78) for line in titles[1])
        assert "".join(titles[1])[:8] in (text[:8], "no heatm")


def test_long_titles_have_two_lines_and_equal_images_equal_pictures(font, titles):
    maps = {"a": np.stack([STEP] * 2)}
    first, second = Overlay().draw_several([GREY] * 2, maps, ["", "H " * 900], titles={"a": ["a", LONG]})
    assert first.shape == second.shape
    assert titles[1] == ["a"]
    assert len(titles[3]) == 2
    assert titles[3][1].endswith("...")
    bar = second[160:200, 164:]  # The title is as wide as it may be, and stays in its column.
    assert ink(bar)[1] - ink(bar)[0] > 120
    assert (second[160:200, :110] == first[160:200, :110]).all()


def test_names_of_methods_are_broken_at_their_joints(font):
    assert captions.title_lines("IntegratedGradients(steps=50)", 160, 13) == ["IntegratedGradients", "(steps=50)"]
    assert captions.title_lines("gradcam_plus_plus", 76, 13) == ["gradcam", "_plus_plus"]
    first, second = captions.title_lines("W" * 99, 160, 13)  # One without a joint is broken anywhere.
    assert set(first) == {"W"}
    assert second.endswith("W...")
    assert captions.text_width(first, 13) <= 160 < captions.text_width(first + "W", 13)


# Bad input, and none


def test_no_samples():
    none = np.empty((0, 7, 7), np.float32)
    assert Overlay(layout="panel").draw([], none, [], beside={"photo": []}) == ()
    assert Overlay(layout="panel").draw_several([], {"a": none}, [], titles={"a": []}, beside={"photo": []}) == ()


def test_arguments_stay_as_they_are_and_pictures_are_new():
    photo, maps, beside = plain(3), {"a": STEP[None]}, {"photo": [plain(7)]}
    for layout in ("overlay", "mask", "panel"):
        settings = Overlay(layout=layout)
        pictures = settings.draw([photo], STEP[None], beside=beside) + settings.draw_several(
            [photo], maps, beside=beside
        )
        assert not any(np.shares_memory(picture, each) for picture in pictures for each in (photo, beside["photo"][0]))
    assert (photo == 3).all()
    assert (beside["photo"][0] == 7).all()
    assert list(beside) == ["photo"]


FAULTS = {
    "too few beside": (
        {"beside": {"photo": []}},
        ValueError,
        r"`beside\['photo'\]` must hold .* 1 images. Received: 0",
    ),
    "no list beside": ({"beside": {"photo": 3}}, ValueError, "Received: int"),
    "a list of columns": ({"beside": [[GREY]]}, TypeError, "`beside` must be a mapping .* Received: list"),
    "an array beside": ({"beside": GREY[None]}, TypeError, "`beside` must be a mapping .* Received: ndarray"),
    "a number as name": ({"beside": {3: [GREY]}}, TypeError, r"names are text. Received: \[3\]. .* works"),
    "a blank name": ({"beside": {" ": [GREY]}}, TypeError, r"Received: \[' '\]"),
    "floats beside": ({"beside": {"a": [GREY / 255]}}, ValueError, r"`beside\['a'\]\[0\]` must be uint8 RGB"),
    "title": ({"beside": {"a": [GREY]}, "title": 3}, TypeError, "A title must be a text. Received: 3"),
}
SEVERAL = FAULTS | {
    "no map": ({"heatmaps": {}}, ValueError, r"at least one name.* Received: heatmaps of \[\]"),
    "an array": ({"heatmaps": STEP[None]}, TypeError, "`heatmaps` must be a mapping .* Received: ndarray"),
    "too many maps": ({"heatmaps": {"a": np.stack([STEP] * 2)}}, ValueError, r"`heatmaps\['a'\]` .* Received: 2"),
    "one map": ({"heatmaps": {"a": STEP[:, :, None]}}, ValueError, r"`heatmaps\['a'\]` .* Received: 160"),
    "number of the method": ({"heatmaps": {0: STEP[None]}}, TypeError, r"Received: \[0\]"),
    "unknown title": (
        {"titles": {"gradcan": ["b"]}}, ValueError, r"no other ones. Received: .* \['a'\], titles of \['gradcan'\]"
    ),
    "too many titles": ({"titles": {"a": ["b", "c"]}}, ValueError, r"`titles\['a'\]` .* Received: 2"),
    "no name of titles": ({"titles": np.array(["b"])}, TypeError, "`titles` must be a mapping .* Received: ndarray"),
    "one title": ({"titles": {"a": "b"}}, ValueError, r"`titles\['a'\]` .* Received: str"),
    "a number as title": ({"titles": {"a": [0.5]}}, TypeError, "A title must be a text. Received: 0.5"),
    "captions": ({"captions": ["a", "b"]}, ValueError, "Received: 1 images, 2 captions"),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "kind", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_of_a_panel(settings, kind, message):
    with pytest.raises(kind, match=message):
        Overlay(layout="panel").draw([GREY], STEP[None], **settings)


@pytest.mark.parametrize("layout", ["overlay", "mask"])
def test_columns_are_checked_where_they_are_not_drawn(layout):
    with pytest.raises(ValueError, match="Received: 0"):
        Overlay(layout=layout).draw([GREY], STEP[None], beside={"photo": []})


@pytest.mark.parametrize(("settings", "kind", "message"), SEVERAL.values(), ids=SEVERAL)
def test_faults_of_several(settings, kind, message):
    with pytest.raises(kind, match=message):
        Overlay(layout="panel").draw_several([GREY], **{"heatmaps": {"a": STEP[None]}} | settings)


# Where the image is


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("layout", ["overlay", "mask", "panel"])
@pytest.mark.parametrize("size", [None, 96, (130, 200)])
@pytest.mark.parametrize("caption", [True, False])
@pytest.mark.parametrize("beside", [None, {"photo": [plain(250, 50, 30)]}])
@pytest.mark.parametrize("shape", [(120, 160), (300, 170), (20, 30), (320, 60)])
def test_the_image_is_where_it_is_said_to_be(views, layout, size, caption, beside, shape):
    """A bare image is found at each place, or a grey heatmap; the pictures are those of `draw`."""
    settings = Overlay(layout=layout, size=size, caption=caption, alpha=1)
    image = np.random.default_rng(0).integers(0, 120, (*shape, 3)).astype(np.uint8)
    shown = columns.displayed(image, size)
    constant = np.ones((1, 2, 2), np.float32)  # degenerate: an overlay is the bare image, a heatmap is grey
    maps = {"a": constant, "b": constant} if views else constant
    ((picture, places),) = settings.draw_placed([image], maps, ["a caption"], beside=beside)
    draw = settings.draw_several if views else settings.draw
    np.testing.assert_array_equal(picture, draw([image], maps, ["a caption"], beside=beside)[0])
    columns_of_each = 2 if layout == "panel" else 1
    assert len(places) == (1 if views or layout == "panel" else 0) + columns_of_each * max(views, 1)
    heatmaps = {1, 3} if layout == "panel" else set()
    for i, (left, top, right, bottom) in enumerate(places):
        part = picture[top:bottom, left:right]
        np.testing.assert_array_equal(part, np.full_like(shown, 225) if i in heatmaps else shown)
    assert list(places) == sorted(set(places))


def test_a_caption_centres_a_narrow_image():
    ((_, places),) = Overlay().draw_placed([plain(40, 320, 100)], STEP[None], ["a caption"])
    assert places == ((30, 0, 130, 320),)


def test_wide_titles_and_further_columns_move_the_places():
    ((_, places),) = Overlay(layout="panel").draw_placed([GREY], STEP[None], beside={"original": [plain(0, 80, 40)]})
    # 80 px wide at the image's height, but a title needs 6 letters of 13 px.
    assert places == ((84, 0, 244, 160), (248, 0, 408, 160), (412, 0, 572, 160))
    ((_, places),) = Overlay().draw_placed([plain(40, 320, 60)], {"gradcam": STEP[None]})
    assert places == ((9, 0, 69, 320), (91, 0, 151, 320))


def test_a_grid_moves_the_places():
    drawn = Overlay().draw_placed([GREY, plain(40, 320, 200)], np.stack([STEP] * 2))
    picture, places = grid_placed(drawn, columns=1)
    np.testing.assert_array_equal(picture, grid([each.picture for each in drawn], columns=1))
    for each, (left, top, right, bottom) in zip(drawn, places, strict=True):
        np.testing.assert_array_equal(picture[top:bottom, left:right], each.picture)
    assert places == ((28, 8, 188, 168), (8, 176, 208, 496))
