"""`keras-cam explain`: where a saved model looks on images."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .arrays import as_batch, check_options, read_files, spacing_option
from .console import need, number, one_message, plain, print_json, print_table, say
from .loading import FREE_SIDE, Input, load_keras, load_model, running
from .options import MODEL, OUTPUT_KINDS, UNSAFE
from .scales import range_of, scale_option
from .targets import TARGETS, read_target

if TYPE_CHECKING:
    from ..records import Image, ValidationBatch


def _size(ctx: Any, param: Any, value: str | None) -> tuple[int, int] | None:
    sides = [] if value is None else value.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 0 < int(side) <= 4096 for side in sides):
        raise click.BadParameter(f"{value!r} is no size of 1 to 4096 px, such as 224 or 224x320 (height x width).")
    return (int(sides[0]), int(sides[-1])) if sides else None


def _tokens(ctx: Any, param: Any, value: str | None) -> tuple[int, int] | None:
    sides = [] if value is None else value.lower().split("x")
    if value is not None and (len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides)):
        raise click.BadParameter(f"{value!r} is no grid of tokens such as 14x14 (height x width).")
    return (int(sides[0]), int(sides[1])) if sides else None


def _check_methods(names: tuple[str, ...]) -> None:
    from ..methods import resolve_methods

    try:
        resolve_methods(list(names))
    except (ValueError, TypeError, ImportError) as error:
        raise click.BadParameter(plain(error), param_hint="'--method'") from error


def _colormap(ctx: Any, param: Any, value: str) -> str:
    from ..drawing.overlay import COLORMAPS

    if value not in COLORMAPS:
        raise click.BadParameter(f"{plain(repr(value))} is none of {', '.join(COLORMAPS)}.")
    return value


@click.command(context_settings={"show_default": True}, short_help="Show where a saved model looks on images.")
@MODEL
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--method",
    "methods",
    metavar="NAME",
    multiple=True,
    default=["auto"],
    help="How it is explained: auto (gradcam, on tokens hirescam), layercam, smoothgrad, rise, ...; several stand side "
    "by side.",
)
@click.option(
    "--layer", "layer_names", multiple=True, help="What `layers` lists; several are fused.  [default: chosen]"
)
@click.option(
    "--target",
    default="predicted",
    help=f"What is explained: {TARGETS}",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("explanation"), help="New or empty folder for the results."
)
@click.option("--class-names", help='Names in the order of the classes, "cat,dog", or a file with one in each line.')
@click.option(
    "--output-kind",
    type=click.Choice(list(OUTPUT_KINDS)),
    help="What the model puts out.  [default: by its loss, its last layer and shape]",
)
@click.option(
    "--scale",
    "--value-range",
    "scale",
    callback=scale_option,
    metavar="NAME|LOW,HIGH",
    help="Pixel values the model takes: 0-255, 0-1, -1-1, mean-subtracted, mean-std, or two numbers such as 0,4095.  "
    "[default: by its layers]",
)
@click.option(
    "--white",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Value that is white in the files, 4095 for scans of 12 bits.  [default: 255, or 65535 of 16 bits]",
)
@click.option(
    "--size",
    callback=_size,
    metavar="HxW",
    help="Size that images are brought to.  [default: what the model takes, or 224]",
)
@click.option(
    "--tokens",
    callback=_tokens,
    metavar="HxW",
    help="How the layer's tokens lie on the image, as 14x14; others in front are left out.  [default: measured]",
)
@click.option(
    "--spacing",
    callback=spacing_option,
    metavar="N,N,...",
    help="How far positions are apart along each axis, in the array's order.  [default: what NIfTI files say, or 1]",
)
@click.option("--crop", is_flag=True, help="Cut off what does not fit the size's aspect, instead of stretching.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, help="Images that run at once.")
@click.option("--max-images", type=click.IntRange(min=1), default=256, help="More images than these are an error.")
@click.option("--colormap", callback=_colormap, default="turbo", help="Colours of the heatmaps: turbo, viridis, ....")
@click.option(
    "--layout", type=click.Choice(["overlay", "panel", "mask"]), default="overlay", help="What pictures show."
)
@click.option("--skip-bad", is_flag=True, help="Leave out images that can't be read, and say which.")
@click.option("--json", "as_json", is_flag=True, help="Print the predictions as JSON.")
@UNSAFE
def explain(
    model: Path,
    images: tuple[str, ...],
    methods: tuple[str, ...],
    layer_names: tuple[str, ...],
    target: str,
    out: Path,
    class_names: str | None,
    output_kind: str | None,
    scale: str | None,
    white: float | None,
    size: tuple[int, int] | None,
    tokens: tuple[int, int] | None,
    spacing: tuple[float, ...] | None,
    crop: bool,
    batch_size: int,
    max_images: int,
    colormap: str,
    layout: Any,
    skip_bad: bool,
    as_json: bool,
    unsafe: bool,
) -> None:
    """Shows where a saved model looks on images.

    IMAGES are files, folders (with all below them) or quoted patterns: BMP, GIF, JPEG, PNG, TIFF or WebP. For models of
    signals, volumes or clips they are arrays as the model takes them, one sample or several (.npy, .npz), volumes in
    NIfTI, or videos, of which the model's number of frames is taken, evenly. The folder
    --out gets grid.jpg with all pictures in one, and the same record that the callbacks write, which `report`,
    `compare` and read_run() read: pictures under overlays, raw heatmaps under heatmaps. It appears at the end, whole.

    An image that can't be read ends the command before any is explained; --skip-bad does without it.

    The range of pixel values matters: a model that sees others than it was trained on looks elsewhere. --scale 0-255
    fits models with a Rescaling layer of their own; mean-subtracted is keras.applications' "caffe" preprocessing (VGG,
    ResNet), -1-1 its "tf" (MobileNet, Inception), mean-std its "torch" (DenseNet). What is assumed is printed. A model
    that scales its input itself gets the values as keras.utils.load_img reads them from the files.
    """
    need("rich")
    with one_message():
        from ..store.whole import check_free, whole_folder
        from .loading import model_input

        check_free(out, folder=True)
        _find(images, max_images)
        names = None if class_names is None else read_class_names(class_names)
        load_keras()
        _check_methods(methods)
        loaded = load_model(model, unsafe=unsafe)
        given = model_input(loaded)
        files = every = _find(images, max_images, given.kind)
        if given.kind == "image":
            sides: tuple[int, ...] = _chosen_size(given, size)
            batch, bad, scale, words = _read_images(loaded, given, files, scale, white, sides, crop, spacing, skip_bad)
        else:
            check_options(given, scale, white, size, crop)
            read, bad = read_files(given, files, size, crop=crop)
            _check_bad(bad, len(files), skip_bad, f"{given.kind}s")
            batch, of_samples, used, words = as_batch(loaded, given, read, max_images, scale, spacing)
            assert batch.space is not None
            sides, scale = batch.space.size, used or None
            files = {key: files[name] for key, name in of_samples.items()}
        say(words)
        not_read = {str(every[key]): why for key, why in bad.items()}
        from ..drawing.overlay import Overlay
        from ..explaining.explainer import Explainer
        from .recording import predictions, write_record

        overlay = Overlay(colormap=colormap, layout=layout)
        with running(loaded), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # What it tells stands in its notes.
            explainer = Explainer(
                loaded,
                batch,
                list(layer_names) or None,
                method=methods[0] if len(methods) == 1 else list(methods),
                target=read_target(target, names),
                class_names=names,
                output_kind=output_kind,
                batch_size=batch_size,
                tokens=tokens,
            )
            if explainer.guess:
                say(f"explain {explainer.guess}")
            views = explainer.views(batch)
        for note in explainer.notes:
            say(f"Warning: {note}")
        with whole_folder(out) as folder:
            write_record(folder, loaded, explainer, views, overlay)
        found = predictions(views, files)
        assert batch.space is not None
        settings = {
            "model": str(model),
            "out": str(out),
            "layer": explainer.layer_name,
            "method": explainer.method,
            "target": explainer.target,
            "scale": scale,
            "size": list(sides),
            "spacing": list(batch.space.spacing) or None,
            "tokens": explainer.space.tokens or None,
        }
    if as_json:
        print_json({**settings, "predictions": found, "not_read": not_read})
        return
    _print_predictions(found, several=len(views) > 1)
    click.echo(plain(f"Explained {explainer.description} by {explainer.method} of {explainer.capturer.explained}."))
    grid = out / "grid.jpg"
    click.echo(plain(f"Pictures: {grid if grid.exists() else out / 'overlays'}. Record: {out}"))


def read_class_names(text: str) -> list[str]:
    """Returns class names from a text with commas, or from a file with one in each line.

    Raises:
        ValueError: If the file is no such text.
        OSError: If it can't be read.
    """
    path = Path(text)
    if "," not in text and path.is_file():
        if path.stat().st_size > 2**20:
            raise ValueError(f"A file of class names must have at most 1 MiB. Received: {path}.")
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    else:
        names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or not all(names):
        raise ValueError(
            "--class-names must be a file with a name in each line, or names with commas between them. "
            f"Received: {text!r}, with {len(names)} names. cat,dog works."
        )
    return names


def _find(names: Sequence[str], most: int, kind: str = "") -> dict[str, Path]:
    """Finds the files that are meant; without a kind, whether there are any of one kind.

    Raises:
        ValueError: As `find_images`.
    """
    from ..data.files import find_images
    from ..data.sample_files import SUFFIXES_OF

    if kind in ("", "image"):
        try:
            return find_images(names, most)
        except ValueError:
            if kind:
                raise
            every = tuple(dict.fromkeys(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes))
            with suppress(ValueError):
                return find_images(names, most, every)
            raise
    return find_images(names, most, SUFFIXES_OF[kind], kind)


def _read_images(
    model: Any,
    given: Input,
    files: Mapping[str, Path],
    scale: str | None,
    white: float | None,
    size: tuple[int, ...],
    crop: bool,
    spacing: tuple[float, ...] | None,
    skip_bad: bool,
) -> tuple[ValidationBatch, dict[str, str], str, str]:
    """Returns images as a batch, why others can't be read, the range of their values, and what is made of these."""
    from ..data.files import read_images
    from .loading import likely_scale
    from .scales import deep_words, scales_itself, whites

    read, bad = read_images(dict(files), (size[0], size[1]), given.shape[2] or 3, crop=crop, deep=True)
    _check_bad(bad, len(files), skip_bad)
    pixels = list(read.values())
    guess, why = likely_scale(model, pixels, white)
    tops = whites(pixels, scale or guess, scale is None and scales_itself(model), white)
    words = (
        f"{len(read)} image{'s' * (len(read) != 1)}, {'cut and ' if crop else ''}brought to {size[0]} x {size[1]} "
        f"px, pixel values {scale or guess}"
        + ("." if scale else f" ({why}; --scale takes others).")
        + deep_words(pixels, tops, scale or guess, white)
    )
    return _batch(model, read, scale or guess, tops, spacing), bad, scale or guess, words


def _chosen_size(given: Any, size: tuple[int, int] | None) -> tuple[int, int]:
    height, width = size or (FREE_SIDE, FREE_SIDE)
    need_height, need_width = given.shape[0] or height, given.shape[1] or width
    if size and size != (need_height, need_width):
        raise ValueError(
            f"--size must be what the model takes. Received: {height}x{width} for a model of images of {given}. "
            f"--size {need_height}x{need_width} works, and so does none."
        )
    return need_height, need_width


def _check_bad(bad: Mapping[str, str], count: int, skip: bool, noun: str = "images") -> None:
    if not bad:
        return
    shown = list(bad.values())[:20]
    listed = "\n".join(["", *(f"  {why}" for why in shown), *[f"  and {len(bad) - 20} more"] * (len(bad) > 20)])
    if not skip or len(bad) == count:
        works = "" if len(bad) == count else " --skip-bad does without them."
        raise ValueError(f"IMAGES must be {noun}. Received: {len(bad)} of {count} that can't be read.{works}{listed}")
    say(f"{len(bad)} of {count} {noun} can't be read, and are left out:{listed}")


def _batch(
    model: Any,
    images: Mapping[str, Any],
    scale: str,
    tops: Sequence[float | None],
    spacing: tuple[float, ...] | None,
) -> ValidationBatch:
    """Returns the batch; its samples are told apart by the pixels in the files, whatever the model sees of them."""
    import dataclasses

    from ..data.batches import fingerprint, make_batch
    from ..data.feeding import preprocesses
    from .loading import model_input, scaled

    values = scaled(list(images.values()), scale, model_input(model), tops)
    shown = _shown(list(images.values()), range_of(scale), tops)
    # The map lies on what a preprocessor of the model's own makes of the image.
    display = None if preprocesses(model) else list(shown)
    batch = make_batch(values, model, max_samples=None, display=display, sample_keys=list(images), spacing=spacing)
    look = dataclasses.replace(batch.look, fingerprints=tuple(map(fingerprint, shown)), value_range=range_of(scale))
    return batch.shown_as(look)


def _shown(images: Sequence[Any], name: str, tops: Sequence[float | None]) -> list[Image]:
    """Returns what people see of images from files: deep ones in the range that is known, or stretched."""
    import numpy as np

    from ..data.range_names import named
    from ..data.ranges import display_images
    from ..data.recognition import recognised
    from ..network.expected import Expected

    shown: dict[int, Image] = {}
    of_bytes = [i for i, image in enumerate(images) if image.dtype == np.uint8]
    shown |= (
        zip(of_bytes, display_images([images[i] for i in of_bytes], "[0, 255]")[0], strict=True) if of_bytes else {}
    )
    deep = [i for i in range(len(images)) if i not in of_bytes]
    if deep:
        top = tops[deep[0]]
        whole = name if top is None else named(0, top)
        pictures = [images[i] for i in deep]
        shown |= zip(deep, display_images(pictures, recognised(pictures, Expected(whole, "", True)))[0], strict=True)
    return [shown[i] for i in range(len(images))]


def _print_predictions(found: list[dict[str, Any]], several: bool) -> None:
    headers = ["sample", *["view"] * several, "predicted", "explained", "confidence", "score", "heatmap"]
    rows = [
        (
            row["sample"],
            *[row["view"]] * several,
            "-" if row["predicted"] is None else row["predicted"],
            "-" if row["explained"] is None else row["explained"],
            number(row["confidence"], 2),
            f"{row['score']:.3g}",
            "none" if row["degenerate"] else "yes",
        )
        for row in found
    ]
    print_table(headers, rows, right=["confidence", "score"])
