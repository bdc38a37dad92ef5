"""What the page of the kinds of models says before its tables: each kind in one row, written by hand."""

from __future__ import annotations

INPUTS = (
    (
        "images (N, H, W, C), grey (N, H, W)",
        "the last map; of tokens what the last self-attention works on; of masks the last of the smallest maps",
        "everything",
        "a layer that is no map: the message lists those that are",
    ),
    (
        "signals (N, T, C), (N, T)",
        "the last map along time",
        "methods of layers and of inputs, metrics, `regions` (first, last), faithfulness; pictures are the line over "
        "coloured ground, channels are strips below it, patterns of filters are lines; `Segment` with a point, labels "
        "or masks (T,), (N, T)",
        "augmentations that need a plane, as rotation: flip, cut_out, noise, scale and shift work. A recurrent network "
        "that keeps no axis for time: method='saliency' or 'occlusion'",
    ),
    (
        "volumes (N, D, H, W, C)",
        "the last map",
        "as for images, in three axes, with `spacing=`; pictures are planes through the peak, slices or a film; "
        "channels and patterns show one slice; `Segment` with a point, labels or masks (D, H, W), (N, D, H, W)",
        "`Detection`: `Segment`, or a function of the outputs",
    ),
    (
        "clips (N, T, H, W, C)",
        "the last map, of all frames where the model sees them one by one; behind a ConvLSTM that keeps no axis for "
        "time one map for the whole clip",
        "as for volumes; pictures are strips of frames or a film",
        "a row of features for each frame, as input: method='saliency' or 'occlusion'",
    ),
    (
        "several images, or an image and numbers",
        "the last map of the image that it lies on, the largest one where these are several",
        'as for images; `input=` names another image, `"tower/conv#2"` another call of a shared layer',
        "layers of different images fused: one by one",
    ),
)

OUTPUTS = (
    ("classes", "the predicted one", "all targets; `Contrast`, `top2` to `top9`", ""),
    ("labels, several at once", "the most probable one", "`Present`, `true` as one view each", ""),
    ("one number", "it", "`Value(0)`", ""),
    ("several numbers, an embedding", "asked for", "`Value(2)`, `Similarity(reference)`", "without a target: target=0"),
    (
        "a mask",
        "the most frequent predicted class that is not 0",
        "`Segment`, outlined; a class index means it",
        "`Contrast`, `top2`: Segment(1)",
    ),
    (
        "boxes of a detector",
        "the class of the best box, by all levels of the pyramid",
        "`Detection`; the box is drawn, and its class, score and place are in caption and record",
        "a place where the model crops or pads before its detector: no box is drawn, or `output_format=`; `Contrast`: "
        "Detection(1)",
    ),
    ("several outputs", "asked for", "one by its name, or a dict", "without a target: target={'label': 'predicted'}"),
)

WEIGHTS = (
    ("float16, bfloat16, mixed", "all", ""),
    ("LoRA (`enable_lora`)", "all; Grad-CAM equals a tape's; its matrices are followed in `fit`", ""),
    (
        "int8 (`quantize`), LoRA in int8",
        "all; Grad-CAM equals a tape's",
        "'cam' behind a quantized dense layer: method='hirescam'; `sanity_check`: the model before it was quantized",
    ),
    (
        "float8 (`quantize`)",
        "all; the way back is that of what is computed, without Keras' rounding of gradients",
        "as int8",
    ),
    ("rematerialized (`RematScope`)", "all", ""),
    ("frozen", "all; its part of the pass runs once", ""),
)


def at_a_glance() -> str:
    """Returns three tables: by input, by output, by the type of the weights."""
    return (
        "## At a glance\n\n"
        + _table(("input", "explained by default", "works", "refused, and the way out"), INPUTS)
        + _table(("output", "what of it by default", "targets", "refused, and the way out"), OUTPUTS)
        + _table(("weights", "works", "refused, and the way out"), WEIGHTS)
    )


def _table(head: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines) + "\n"
