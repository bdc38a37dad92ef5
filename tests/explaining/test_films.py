"""Films through the frames of clips and the slices of volumes, read back; and pictures of explanations."""

import cv2
import numpy as np
import PIL.Image
import pytest
from unfolded import KINDS, SPACES, explained

from keras_cam_callbacks import Overlay
from keras_cam_callbacks.explaining.explanation import Explanations
from keras_cam_callbacks.explaining.plots import show


def frames_of(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return frames


@pytest.mark.parametrize("kind", ["volume", "clip"])
def test_a_film_has_one_frame_for_each_slice_and_its_heat(tmp_path, kind):
    explanation = explained(kind, 2)
    maps = np.zeros_like(explanation.heatmaps)
    maps[0, -1] = 1
    maps[0, -1, 0, 0] = 2
    path = explained(kind, 2, heatmaps=maps).film(tmp_path / "a.mp4", Overlay(caption=False), samples=[0])
    frames = frames_of(path)
    assert len(frames) == SPACES[kind].size[0]
    # Blue is cold; at the end there is heat.
    blue = [frame[:100].astype(int)[..., 2].mean() - frame[:100].astype(int)[..., 0].mean() for frame in frames]
    assert blue[0] > blue[-1] + 10


@pytest.mark.slow
def test_a_gif_of_several_views_and_samples(tmp_path):
    views = Explanations({"a": explained("clip"), "b": explained("clip", seed=1)})
    path = views.film(tmp_path / "a.gif", fps=5)
    with PIL.Image.open(path) as film:
        assert film.n_frames == 12
        assert film.info["duration"] == 200
    with pytest.raises(ValueError, match="free"):
        views.film(path)
    views.film(path, overwrite=True)


def test_what_is_no_film_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"frames of clips.*Received: signals.*overlays\(\)"):
        explained("signal").film(tmp_path / "a.gif")
    clip = explained("clip")
    for settings, match in (
        ({"fps": 0}, "`fps`"),
        ({"samples": [3]}, "`samples`"),
        ({"samples": []}, "`samples`"),
        ({"samples": [-1]}, "`samples`"),
    ):
        with pytest.raises(ValueError, match=match):
            clip.film(tmp_path / "a.gif", **settings)
    with pytest.raises(ValueError, match="GIF, WebP or MP4"):
        clip.film(tmp_path / "a.avi")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_grids_notebooks_and_figures(kind):
    explanation = explained(kind)
    assert " x ".join(map(str, explanation.heatmaps.shape[1:])) in repr(explanation)
    assert explanation.grid().ndim == 3
    assert "<img" in explanation._repr_html_()
    views = Explanations({"a": explanation, "b": explained(kind, seed=4)})
    assert "<img" in views._repr_html_()
    for one in (explanation, views):
        figure = show(one, Overlay(layout="panel"))
        assert len(figure._repr_png_()) > 1000
    assert not explanation.samples()[0].degenerate
    assert explanation.samples()[-1].degenerate


def test_figures_hold_the_pixels_of_overlays():
    explanation = explained("volume")
    figure = show(explanation)
    shown = [axes.images[0].get_array() for axes in figure.axes[:-1]]
    for picture, drawn in zip(shown[1::2], explanation.overlays(Overlay(caption=False)), strict=True):
        np.testing.assert_array_equal(picture, drawn)
