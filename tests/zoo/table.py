"""The kinds of models, as data: what is explained of each by default, or with what way out it is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
from zoo import convolutional, hub, outputs, several_inputs, signals_and_volumes, tokens
from zoo.example import Example

NORM = "batch_normalization"
SMALLEST = "the last of the smallest maps"
LEVELS = "all levels of the pyramid, fused"
BEST_BOX = "of each image the class of its best box is explained"
AVERAGES = "Grad-CAM averages gradients over all tokens"
MASK = "was passed an input with a mask attached to it"  # KerasHub's Swin, in any call.
ON_ONE = "Heatmaps are drawn on the input 'after', which is one of several images"
EACH_IMAGE = "of each image the last map"


@dataclass(frozen=True)
class Row:
    """A kind of model.

    Attributes:
        name: Its name in words.
        build: Makes a small one.
        layer: The layer that is explained by default: its path, as a pattern, without the numbers that Keras gives.
        nth: Which of the layers with that path, counted from 0.
        place: The layer in words.
        cells: The size of the heatmap.
        special: Of a layer of tokens how many in front are no cells; None for a layer that puts out a map.
        levels: Of a detector the layers that are fused, each as `layer` and `nth`.
        images: Of several images, each of which has a view: the name of its input, its layer as `layer` and `nth`,
            which of the layer's calls it is, counted from 0, and the size of its heatmap.
        score: Of a detector the score that is explained, as a function of the outputs.
        says: Parts of what is said of it, all of it.
        refused: What a refusal names as way out.
        way_out: The settings that it means, with which the model is explained.
        wrong: What is wrong today; "" for what is right.
        precise: Whether it is tried in float64, as float32's last bits make more of a difference than is tested for.
        fast: Whether it stands for its family in every run of the tests.
    """

    name: str
    build: Callable[[], Example]
    layer: str = ""
    nth: int = 0
    place: str = ""
    cells: tuple[int, ...] = ()
    special: int | None = None
    levels: tuple[tuple[str, int], ...] = ()
    images: tuple[tuple[str, str, int, int, tuple[int, ...]], ...] = ()
    score: Callable[[Any], Any] | None = None
    says: tuple[str, ...] = ()
    refused: str = ""
    way_out: Mapping[str, Any] = field(default_factory=dict)
    wrong: str = ""
    precise: bool = False
    fast: bool = False


def of_map(name, build, layer, nth, cells, place="the last map", **more):
    return Row(name, build, layer, nth, place, cells, **more)


def of_tokens(name, build, layer, nth, cells, special=0, place="the norm before the last self-attention", **more):
    return Row(name, build, layer, nth, place, cells, special, **{"says": (AVERAGES,)} | more)


def of_levels(name, build, levels, cells, score, **more):
    return Row(name, build, place=LEVELS, cells=cells, levels=levels, score=score, says=(BEST_BOX,), **more)


def of_images(name, build, images, **more):
    return Row(name, build, place=EACH_IMAGE, images=images, **more)


def refused(name, build, names, way_out, **more):
    return Row(name, build, refused=names, way_out=way_out, **more)


SALIENCY = "method='occlusion' or 'saliency'", {"method": "saliency"}
DISPLAY = "give `display=`"
FAMILIES: Mapping[str, tuple[Row, ...]] = {
    "Convolutional": (
        of_map("ConvMixer", convolutional.convmixer, "batch_normalization", 4, (16, 16)),
        of_map("Xception from scratch, one unit", convolutional.mini_xception, "last_relu", 0, (8, 8), fast=True),
        of_map("a GAN's discriminator", convolutional.discriminator, "leaky_re_lu", 1, (8, 8)),
        of_map("dense layers in int8", convolutional.quantized, "conv2d", 0, (30, 30)),
        of_map("`TFSMLayer` behind a convolution", convolutional.saved_behind_convolution, "front", 0, (32, 32)),
        refused("`TFSMLayer` in a model", convolutional.saved_model, *SALIENCY),
        refused(
            "`TFSMLayer` itself",
            convolutional.saved_layer,
            "keras.Model(inputs, layer(inputs))",
            {"model": lambda layer: _around(layer), "method": "saliency", "output_kind": "classes"},
        ),
    ),
    "Tokens": (
        of_tokens("ViT, all tokens read out", tokens.vit, "layer_normalization", 2, (4, 4)),
        of_tokens("ViT behind augmentation", tokens.vit_augmented, "layer_normalization", 2, (4, 4)),
        of_tokens("ViT behind RandomColorJitter", tokens.vit_colour_jitter, "layer_normalization", 2, (4, 4)),
        of_tokens("ViT behind RandomShear", tokens.vit_shear, "layer_normalization", 2, (4, 4)),
        of_tokens("ViT behind RandomErasing", tokens.vit_erasing, "layer_normalization", 2, (4, 4)),
        of_tokens("ViT behind a Lambda", tokens.vit_scaled, "layer_normalization", 2, (4, 4)),
        of_tokens("ViT, tokens averaged", tokens.vit_pooled, "layer_normalization", 2, (4, 4)),
        of_tokens("ViT of images that are no square", tokens.vit_wide, "layer_normalization", 2, (4, 6)),
        of_tokens(
            "ViT, nested, class token and registers",
            tokens.vit_registers,
            "base/layer_normalization",
            2,
            (4, 4),
            5,
            fast=True,
        ),
        of_tokens("the same, frozen", tokens.vit_frozen, "base/layer_normalization", 2, (4, 4), 5),
        of_tokens("distilled DeiT, two heads", tokens.deit_distilled, "body/layer_normalization", 2, (4, 4), 2),
        of_tokens("Swin", tokens.swin, "swin_block/layer_normalization", 2, (16, 16)),
        of_tokens("MLP-Mixer", tokens.mixer, "add", 3, (4, 4), place="the last tokens", says=()),
        of_tokens("EANet", tokens.eanet, "add", 3, (4, 4), place="the last tokens", says=()),
        of_tokens("CCT", tokens.cct, "layer_normalization", 2, (8, 8)),
        of_map("MobileViT", tokens.mobilevit, "conv2d", 5, (16, 16)),
        of_map(
            "MobileViT that ends in attention",
            tokens.mobilevit_tail,
            "reshape",
            1,
            (16, 16),
            "the map that folded tokens are made into",
            precise=True,
        ),
        of_map(
            "TokenLearner",
            tokens.token_learner,
            "token_maps|conv2d",
            0,
            (4, 4),
            "the last of its learned maps that answers to places",
        ),
        of_map("PatchConvNet", tokens.patchconvnet, "trunk", 0, (8, 8)),
        of_map(
            "windows in the batch", tokens.windows_in_the_batch, "windows", 0, (8, 8), "the block around the windows"
        ),
        of_tokens(
            "windows in the batch, tokens behind them",
            tokens.windows_to_tokens,
            "windows",
            0,
            (8, 8),
            place="the block around the windows",
            says=(),
        ),
        refused(
            "a layer in windows, named",
            tokens.named_in_windows,
            "layer_name='windows'",
            {"layer_name": "windows"},
        ),
    ),
    "Signals, volumes and clips": (
        of_map("signals, Conv1D", signals_and_volumes.forda, "re_lu", 2, (100,), fast=True),
        of_map("signals of several channels, Conv1D", signals_and_volumes.ecg, "re_lu", 2, (100,)),
        of_map("volumes, Conv3D", signals_and_volumes.cnn_3d, NORM, 1, (4, 4, 2), fast=True),
        of_map("volumes, Conv3D, with display=", signals_and_volumes.cnn_3d_displayed, NORM, 1, (4, 4, 2)),
        of_map(
            "clips, TimeDistributed",
            signals_and_volumes.time_distributed,
            "time_distributed/cnn/conv2d",
            1,
            (4, 16, 16),
            fast=True,
        ),
        of_map(
            "clips, TimeDistributed, with display=",
            signals_and_volumes.time_distributed_displayed,
            "time_distributed/cnn/conv2d",
            1,
            (4, 16, 16),
        ),
        refused("features of frames, recurrent", signals_and_volumes.rnn_on_features, *SALIENCY),
        of_map("clips, ConvLSTM", signals_and_volumes.conv_lstm, "conv_lstm2d", 1, (1, 16, 16)),
        of_map(
            "clips, ConvLSTM, with display=", signals_and_volumes.conv_lstm_displayed, "conv_lstm2d", 1, (1, 16, 16)
        ),
        of_tokens("clips, ViViT", signals_and_volumes.vivit, "layer_normalization", 0, (1, 4, 4)),
        of_tokens(
            "clips, ViViT, with display=", signals_and_volumes.vivit_displayed, "layer_normalization", 0, (1, 4, 4)
        ),
    ),
    "Several inputs": (
        of_map("an image and numbers", several_inputs.image_and_numbers, "cnn/conv2d", 1, (16, 16), fast=True),
        of_images(
            "siamese, contrastive",
            several_inputs.siamese_contrastive,
            tuple((name, "cnn/conv2d", 1, call, (16, 16)) for call, name in enumerate(("left", "right"))),
            fast=True,
        ),
        of_images(
            "siamese, triplet",
            several_inputs.siamese_triplet,
            tuple(
                (name, "functional/cnn/conv2d", 1, call, (16, 16))
                for call, name in enumerate(("anchor", "negative", "positive"))
            ),
        ),
        of_images(
            "two views and numbers, a network for each view",
            several_inputs.two_views,
            (("mlo", "network_mlo/conv2d", 1, 0, (12, 12)), ("cc", "network_cc/conv2d", 1, 0, (16, 8))),
            fast=True,
        ),
        of_map("two images that become one", several_inputs.before_and_after, "conv2d", 1, (16, 16), says=(ON_ONE,)),
    ),
    "Outputs": (
        of_map(
            "masks, U-Net, with target=", outputs.unet_of_class, "batch_normalization", 2, (8, 8), SMALLEST, fast=True
        ),
        of_map(
            "masks, U-Net, logits, with target=",
            outputs.unet_of_class_logits,
            "batch_normalization",
            2,
            (8, 8),
            SMALLEST,
        ),
        of_map("masks, U-Net, a layer named", outputs.unet_named_layer, "up", 0, (16, 16), "the named layer"),
        of_map("images, grey, with target=", outputs.autoencoder_grey, "code", 0, (16, 16), SMALLEST),
        of_map("images, colour, with target=", outputs.autoencoder_colour, "code", 0, (16, 16), SMALLEST),
        of_map("one number", outputs.age, "cnn/conv2d", 1, (16, 16)),
        of_map("keypoints, with target=", outputs.keypoints, "separable_conv2d", 0, (2, 2)),
        refused("an embedding", outputs.metric_learning, "target=0", {"target": 0}),
        refused(
            "several outputs",
            outputs.several_outputs,
            "target={'label': 'predicted'}",
            {"target": {"label": "predicted"}},
        ),
        of_map("several outputs, with target=", outputs.several_outputs_box, "cnn/conv2d", 1, (16, 16)),
        of_map(
            "letters, recurrent, with target=",
            outputs.ocr,
            "conv2",
            0,
            (16, 8),
        ),
    ),
    "KerasHub": (
        of_map("ResNet", hub.resnet, "res_net_backbone/stack2_block0_out", 0, (4, 4)),
        of_map("ResNetV2, softmax", hub.resnet_v2, "res_net_backbone/post_relu", 0, (4, 4)),
        of_map("ResNet, max pooling", hub.resnet_max, "res_net_backbone/stack2_block0_out", 0, (4, 4)),
        of_map("EfficientNet", hub.efficientnet, "efficient_net_backbone/top_activation", 0, (8, 8)),
        of_map("EfficientNet, fused", hub.efficientnet_fused, "efficient_net_backbone/top_activation", 0, (8, 8)),
        of_map("DenseNet", hub.densenet, "dense_net_backbone/relu", 0, (8, 8)),
        of_map("MobileNetV3", hub.mobilenet_v3, "mobile_net_backbone/block_5/activation", 0, (2, 2)),
        of_map("MobileNetV5", hub.mobilenet_v5, "mobile_net_v5_backbone/universal_inverted_residual", 1, (8, 8)),
        of_map(
            "MobileNetV5, levels fused", hub.mobilenet_v5_fused, "mobile_net_v5_backbone/msfa/rms_norm2d", 0, (16, 16)
        ),
        of_map("VGG", hub.vgg, "head/fc2", 0, (2, 2), "the last map, of the head"),
        of_map("VGG, flattened", hub.vgg_flat, "vgg_backbone/block3_conv1", 0, (16, 16)),
        of_map("Xception", hub.xception, "xception_backbone/block2_sepconv2_act", 0, (15, 15)),
        of_map("CSPNet", hub.cspnet, "csp_net_backbone/stage_1_block_0_dark_block_add", 0, (16, 16)),
        of_map("HGNetV2", hub.hgnet, "head_last/head_last_relu", 0, (8, 8)),
        of_tokens("MiT", hub.mit, "mi_t_backbone/hierarchical_encoder_3/layer_normalization", 0, (3, 3)),
        of_tokens(
            "ViT, class token", hub.vit, "vi_t_backbone/vit_encoder/transformer_block/ln", 2, (4, 4), 1, fast=True
        ),
        of_tokens("ViT, averaged", hub.vit_pooled, "vi_t_backbone/vit_encoder/transformer_block/ln", 2, (4, 4)),
        of_tokens("ViT, 64 x 96", hub.vit_wide, "vi_t_backbone/vit_encoder/transformer_block/ln", 2, (4, 6), 1),
        of_tokens("DeiT", hub.deit, "dei_t_backbone/deit_encoder/transformer_block/ln", 2, (4, 4), 2),
        of_tokens("Swin", hub.swin, "swin_transformer_backbone/stage/blocks/norm1", 3, (8, 8), says=(AVERAGES, MASK)),
        of_tokens("DINOv2, a head on it", hub.dino_v2, "dinov2_backbone/encoder/layers/norm1", 1, (4, 4), 5),
        of_tokens("DINOv3, a head on it", hub.dino_v3, "dinov3_backbone/encoder/layers/norm1", 1, (4, 4), 5),
        of_tokens("SigLIP, a head on it", hub.siglip, "sig_lip_vision_encoder/encoder_block/layer_norm1", 1, (4, 4)),
        of_tokens("CLIP, a head on it", hub.clip_headed, "clip_vision_encoder/encoder_block/layer_norm", 2, (4, 4), 1),
        of_tokens("CLIP, with target=", hub.clip, "clip_vision_encoder/encoder_block/layer_norm", 2, (4, 4), 1),
        of_map(
            "DeepLabV3, with target=",
            hub.deeplab_of_class,
            "deep_lab_v3_backbone/spatial_pyramid_pooling/sequential/activation_projection",
            0,
            (2, 2),
            SMALLEST,
        ),
        of_map("SegFormer, with target=", hub.segformer, "seg_former_backbone/linear", 0, (2, 2), SMALLEST),
        of_levels(
            "RetinaNet",
            hub.retinanet,
            (("retina_net_backbone/fpn/output_conv_P4", 0), ("retina_net_backbone/fpn/output_conv_P3", 0)),
            (8, 8),
            functools.partial(hub.best_of_all, "cls_logits"),
        ),
        of_map("RetinaNet, with target=", hub.retinanet_of_class, "retina_net_backbone/fpn/output_conv_P3", 0, (8, 8)),
        of_levels(
            "D-FINE",
            hub.dfine,
            (
                ("d_fine_backbone/hybrid_encoder/fpn_block/conv4/conv4_activation", 0),
                ("d_fine_backbone/hybrid_encoder/pan_block/conv4/conv4_activation", 0),
            ),
            (8, 8),
            functools.partial(hub.best_of_all, "logits"),
        ),
        of_map(
            "D-FINE, with target=",
            hub.dfine_of_class,
            "d_fine_backbone/hybrid_encoder/pan_block/conv4/conv4_activation",
            0,
            (4, 4),
        ),
    ),
}


def _around(layer):
    inputs = keras.Input(convolutional.SHAPE)
    return keras.Model(inputs, layer(inputs))


# The layer, as in a row; the size of the images at which the last map is 3 x 3.
APPLICATIONS: Mapping[str, tuple[str, int, int]] = {
    "ConvNeXtBase": ("add", 35, 96),
    "ConvNeXtLarge": ("add", 35, 96),
    "ConvNeXtSmall": ("add", 35, 96),
    "ConvNeXtTiny": ("add", 17, 96),
    "ConvNeXtXLarge": ("add", 35, 96),
    "DenseNet121": ("relu", 0, 96),
    "DenseNet169": ("relu", 0, 96),
    "DenseNet201": ("relu", 0, 96),
    "EfficientNetB0": ("top_activation", 0, 96),
    "EfficientNetB1": ("top_activation", 0, 96),
    "EfficientNetB2": ("top_activation", 0, 96),
    "EfficientNetB3": ("top_activation", 0, 96),
    "EfficientNetB4": ("top_activation", 0, 96),
    "EfficientNetB5": ("top_activation", 0, 96),
    "EfficientNetB6": ("top_activation", 0, 96),
    "EfficientNetB7": ("top_activation", 0, 96),
    "EfficientNetV2B0": ("top_activation", 0, 96),
    "EfficientNetV2B1": ("top_activation", 0, 96),
    "EfficientNetV2B2": ("top_activation", 0, 96),
    "EfficientNetV2B3": ("top_activation", 0, 96),
    "EfficientNetV2L": ("top_activation", 0, 96),
    "EfficientNetV2M": ("top_activation", 0, 96),
    "EfficientNetV2S": ("top_activation", 0, 96),
    "InceptionResNetV2": ("conv_7b_ac", 0, 139),
    "InceptionV3": ("mixed10", 0, 139),
    "MobileNet": ("conv_pw_13_relu", 0, 96),
    "MobileNetV2": ("out_relu", 0, 96),
    "MobileNetV3Large": ("activation", 19, 96),
    "MobileNetV3Small": ("activation", 17, 96),
    "NASNetLarge": ("activation", 259, 96),
    "NASNetMobile": ("activation", 187, 96),
    "ResNet101": ("conv5_block3_out", 0, 96),
    "ResNet101V2": ("post_relu", 0, 96),
    "ResNet152": ("conv5_block3_out", 0, 96),
    "ResNet152V2": ("post_relu", 0, 96),
    "ResNet50": ("conv5_block3_out", 0, 96),
    "ResNet50V2": ("post_relu", 0, 96),
    "VGG16": ("block5_conv3", 0, 48),
    "VGG19": ("block5_conv4", 0, 48),
    "Xception": ("block14_sepconv2_act", 0, 71),
}
PRECISE = ("EfficientNetV2M", "EfficientNetV2L")
"""In float64: untrained, these grow values, and differences of last bits, from block to block, to 1e8 and more.

A change anywhere in the image changes all of their maps, so these aren't tested for places.
"""
