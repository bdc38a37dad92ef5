"""Outputs that are written whole or not at all, whatever ends the writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from keras_cam_callbacks.store.whole import check_free, next_free, whole_file, whole_folder


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def write(whole, path, action, **settings):
    with whole(path, **settings) as place:
        action(place)


def test_a_file_appears_at_the_end(tmp_path):
    with whole_file(tmp_path / "a/b/film.gif") as file:
        assert file.suffix == ".gif"
        file.write_bytes(b"half")
        assert not (tmp_path / "a/b/film.gif").exists()
        file.write_bytes(b"whole")
    assert (tmp_path / "a/b/film.gif").read_bytes() == b"whole"
    assert everything(tmp_path) == ["a", "a/b", "a/b/film.gif"]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_appears_at_the_end_with_the_usual_permissions(tmp_path, there):
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with whole_folder(out) as folder:
        (folder / "sub").mkdir()
        (folder / "sub/file").write_text("whole")
        assert not there or not any(out.iterdir())
    assert everything(tmp_path) == ["out", "out/sub", "out/sub/file"]
    (tmp_path / "other").mkdir()
    assert out.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_nothing_is_left_behind(tmp_path, error, whole):
    (tmp_path / "mine").mkdir()

    def half(place):
        (place / "file" if place.is_dir() else place).write_text("half")
        raise error

    with pytest.raises(error):
        write(whole, tmp_path / "mine/new/deep/out.txt", half)
    assert everything(tmp_path) == ["mine"]


def test_what_was_there_stays_until_another_is_whole(tmp_path):
    file = tmp_path / "film.gif"
    file.write_text("mine")

    def half(new):
        new.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(ValueError, match="which is there already"):
        write(whole_file, file, half)
    with pytest.raises(KeyboardInterrupt):
        write(whole_file, file, half, overwrite=True)
    assert file.read_text() == "mine"
    with whole_file(file, overwrite=True) as new:
        new.write_text("new")
    assert file.read_text() == "new"
    assert everything(tmp_path) == ["film.gif"]


def test_what_others_put_there_meanwhile_is_not_overwritten(tmp_path):
    def both(new):
        new.write_text("new")
        (tmp_path / "a.gif").write_text("theirs")

    with pytest.raises(ValueError, match="which is there already"):
        write(whole_file, tmp_path / "a.gif", both)

    def another(new):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/theirs").touch()

    with pytest.raises(ValueError, match="which holds files"):
        write(whole_folder, tmp_path / "out", another)
    assert everything(tmp_path) == ["a.gif", "out", "out/theirs"]


def test_an_empty_folder_is_filled_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    with whole_folder(Path()) as new:
        (new / "a").touch()
    assert everything(tmp_path / "empty") == ["a"]
    Path("a").unlink()
    with whole_folder(tmp_path / "link") as new:
        (new / "b").mkdir()
    assert everything(tmp_path / "empty") == ["b"]
    assert (tmp_path / "link").is_symlink()


def test_names_that_are_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.gif").touch()
    Path("a-2.gif").touch()
    assert next_free(Path("a.gif")) == Path("a-3.gif")
    assert next_free(tmp_path / "out") == tmp_path / "out-2"
    Path("folder").mkdir()
    with pytest.raises(ValueError, match=r"where a folder is\. Received: folder\. folder-2 works"):
        check_free(Path("folder"), folder=False, overwrite=True)
    with pytest.raises(ValueError, match=r"Received: a\.gif, which is there already"):
        check_free(Path("a.gif"), folder=True)
    with pytest.raises(ValueError, match=r"must be put into a folder. Received: a\.gif/b/c, but .*a\.gif is a file"):
        check_free(Path("a.gif/b/c"), folder=True)
    Path("nowhere").symlink_to("gone")
    with pytest.raises(ValueError, match="Received: nowhere"):
        check_free(Path("nowhere"), folder=False)
