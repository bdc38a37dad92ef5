"""Models of KerasHub, small ones from their constructors."""

from __future__ import annotations

import functools

import keras
import numpy as np
from keras import layers, ops
from models import images
from zoo.example import LOGITS, PROBABILITIES, Example
from zoo.outputs import mean_of_class_1

SHAPE = (64, 64, 3)
WIDTHS = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32}


def _hub():
    """KerasHub's models; imported when one is built, as not everybody has it."""
    import keras_hub

    return keras_hub.models


def classifier(name, backbone, loss=LOGITS, shape=SHAPE, **settings):
    task = getattr(_hub(), f"{name}ImageClassifier")
    return Example(task(backbone=backbone, num_classes=3, **settings), images(2, shape), loss)


def headed(backbone, name="images", pool="token"):
    """A classifier of one's own on a backbone that comes without."""
    x = backbone(backbone.input)
    if pool == "token":
        x = x[:, 0]
    return Example(keras.Model(backbone.input, layers.Dense(3)(x)), {name: images(2, SHAPE)})


def resnet_backbone(**settings):
    return _hub().ResNetBackbone(
        **{
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 64, 64],
            "stackwise_num_blocks": [1, 1, 1],
            "stackwise_num_strides": [1, 2, 2],
            "block_type": "basic_block",
            "use_pre_activation": False,
            "image_shape": SHAPE,
        }
        | settings
    )


def resnet():
    return classifier("ResNet", resnet_backbone())


def resnet_v2():
    return classifier("ResNet", resnet_backbone(use_pre_activation=True), PROBABILITIES, activation="softmax")


def resnet_max():
    return classifier("ResNet", resnet_backbone(), pooling="max")


def efficientnet(block="v1"):
    backbone = _hub().EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3, 5],
        stackwise_num_repeats=[1, 1, 1],
        stackwise_input_filters=[16, 16, 24],
        stackwise_output_filters=[16, 24, 40],
        stackwise_expansion_ratios=[1, 6, 6],
        stackwise_squeeze_and_excite_ratios=[0.25] * 3,
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=[block] * 3,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_shape=SHAPE,
    )
    return classifier("EfficientNet", backbone)


def efficientnet_fused():
    return efficientnet("fused")


def densenet():
    return classifier("DenseNet", _hub().DenseNetBackbone(stackwise_num_repeats=[2, 2], image_shape=SHAPE))


def mobilenet_v3():
    backbone = _hub().MobileNetBackbone(
        stackwise_expansion=[[40, 56], [64, 144, 144], [72, 72], [144, 288, 288]],
        stackwise_num_blocks=[2, 3, 2, 3],
        stackwise_num_filters=[[16, 16], [24, 24, 24], [24, 24], [48, 48, 48]],
        stackwise_kernel_size=[[3, 3], [5, 5, 5], [5, 5], [5, 5, 5], [1]],
        stackwise_num_strides=[[2, 1], [2, 1, 1], [1, 1], [2, 1, 1], [1]],
        stackwise_se_ratio=[[None, None], [0.25] * 3, [0.25] * 2, [0.25] * 3],
        stackwise_activation=[["relu"] * 2, ["hard_swish"] * 3, ["hard_swish"] * 2, ["hard_swish"] * 3],
        stackwise_padding=[[1, 1], [2, 2, 2], [2, 2], [2, 2, 2], [1]],
        output_num_filters=1024,
        input_activation="hard_swish",
        output_activation="hard_swish",
        input_num_filters=16,
        image_shape=SHAPE,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        last_layer_filter=288,
    )
    return classifier("MobileNet", backbone)


def mobilenet_v5(fused=False):
    backbone = _hub().MobileNetV5Backbone(
        stackwise_block_types=[["er"], ["uir", "uir"]],
        stackwise_num_blocks=[1, 2],
        stackwise_num_filters=[[24], [48, 48]],
        stackwise_strides=[[2], [2, 1]],
        stackwise_act_layers=[["relu"], ["relu", "relu"]],
        stackwise_exp_ratios=[[4.0], [6.0, 6.0]],
        stackwise_se_ratios=[[0.0], [0.0, 0.0]],
        stackwise_dw_kernel_sizes=[[0], [5, 5]],
        stackwise_dw_start_kernel_sizes=[[0], [0, 0]],
        stackwise_dw_end_kernel_sizes=[[0], [0, 0]],
        stackwise_exp_kernel_sizes=[[3], [0, 0]],
        stackwise_pw_kernel_sizes=[[1], [0, 0]],
        stackwise_num_heads=[[0], [0, 0]],
        stackwise_key_dims=[[0], [0, 0]],
        stackwise_value_dims=[[0], [0, 0]],
        stackwise_kv_strides=[[0], [0, 0]],
        stackwise_use_cpe=[[False], [False, False]],
        use_msfa=fused,
        image_shape=SHAPE,
    )
    return classifier("MobileNetV5", backbone)


def mobilenet_v5_fused():
    return mobilenet_v5(fused=True)


def vgg(**settings):
    backbone = _hub().VGGBackbone(stackwise_num_repeats=[1, 1, 1], stackwise_num_filters=[8, 16, 32], image_shape=SHAPE)
    return classifier("VGG", backbone, **settings)


def vgg_flat():
    return vgg(pooling="flatten", pooling_hidden_dim=32)


def xception():
    backbone = _hub().XceptionBackbone(
        stackwise_conv_filters=[[16, 16], [16, 16]], stackwise_pooling=[True, False], image_shape=SHAPE
    )
    return classifier("Xception", backbone)


def cspnet():
    backbone = _hub().CSPNetBackbone(
        stem_filters=16,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 1],
        stackwise_strides=[2, 2],
        stackwise_num_filters=[32, 64],
        block_type="dark_block",
        stage_type="dark",
        image_shape=SHAPE,
    )
    return classifier("CSPNet", backbone)


def hgnet():
    backbone = _hub().HGNetV2Backbone(
        depths=[1, 1],
        embedding_size=32,
        hidden_sizes=[64, 128],
        stem_channels=[3, 16, 32],
        hidden_act="relu",
        use_learnable_affine_block=False,
        stackwise_stage_filters=[[32, 16, 64, 1, 1, 3], [64, 32, 128, 1, 1, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, False],
        image_shape=SHAPE,
    )
    return classifier("HGNetV2", backbone, preprocessor=None)


def mit_backbone(shape=SHAPE):
    return _hub().MiTBackbone(
        layerwise_depths=[1, 1, 1, 1],
        num_layers=4,
        layerwise_num_heads=[1, 2, 5, 8],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        image_shape=shape,
        hidden_dims=[16, 32, 80, 128],
    )


def mit():
    """At 96 x 96, where its last tokens make a grid of 3 x 3, and can be tested."""
    shape = (96, 96, 3)
    return classifier("MiT", mit_backbone(shape), shape=shape)


def vit_backbone(shape=SHAPE, **settings):
    return _hub().ViTBackbone(image_shape=shape, patch_size=16, mlp_dim=64, **WIDTHS, **settings)


def vit():
    return classifier("ViT", vit_backbone())


def vit_pooled():
    return classifier("ViT", vit_backbone(use_class_token=False), pooling="gap")


def vit_wide():
    shape = (64, 96, 3)
    return classifier("ViT", vit_backbone(shape), shape=shape)


def deit():
    return classifier("DeiT", _hub().DeiTBackbone(image_shape=SHAPE, patch_size=16, intermediate_dim=64, **WIDTHS))


def swin():
    backbone = _hub().SwinTransformerBackbone(
        image_shape=SHAPE, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, patch_size=4
    )
    return classifier("SwinTransformer", backbone)


def dino_v2():
    backbone = _hub().DINOV2Backbone(
        patch_size=16,
        intermediate_dim=64,
        num_register_tokens=4,
        image_shape=SHAPE,
        position_embedding_shape=SHAPE,
        **WIDTHS,
    )
    return headed(backbone)


def dino_v3():
    backbone = _hub().DINOV3Backbone(
        patch_size=16, intermediate_dim=64, num_register_tokens=4, image_shape=SHAPE, **WIDTHS
    )
    return headed(backbone, "pixel_values")


def siglip():
    backbone = _hub().SigLIPVisionEncoder(patch_size=16, intermediate_dim=64, image_shape=SHAPE, **WIDTHS)
    return headed(backbone, pool="its own")


def clip_vision():
    return _hub().CLIPVisionEncoder(patch_size=16, intermediate_dim=64, image_shape=SHAPE, **WIDTHS)


def clip_headed():
    return headed(clip_vision())


def clip():
    """How well images and texts belong together, each to its own."""
    text = _hub().CLIPTextEncoder(
        vocabulary_size=50, embedding_dim=32, hidden_dim=32, num_layers=1, num_heads=2, intermediate_dim=64
    )
    model = _hub().CLIPBackbone(vision_encoder=clip_vision(), text_encoder=text, projection_dim=16)
    inputs = {"images": images(2, SHAPE), "token_ids": np.array([[1, 2, 3, 4], [1, 5, 6, 7]], "int32")}
    return Example(model, inputs, None, lambda outputs: ops.diagonal(outputs["vision_logits"]))


def deeplab(target=None):
    encoder = resnet_backbone(
        stackwise_num_filters=[64, 64, 64, 64], stackwise_num_blocks=[1] * 4, stackwise_num_strides=[1, 2, 2, 2]
    )
    backbone = _hub().DeepLabV3Backbone(
        image_encoder=encoder,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[1, 2],
        image_shape=SHAPE,
    )
    model = _hub().DeepLabV3ImageSegmenter(backbone=backbone, num_classes=3, activation="softmax")
    return Example(model, images(2, SHAPE), None, target)


def deeplab_of_class():
    return deeplab(mean_of_class_1)


def segformer():
    backbone = _hub().SegFormerBackbone(image_encoder=mit_backbone(), projection_filters=32)
    model = _hub().SegFormerImageSegmenter(backbone=backbone, num_classes=3)
    return Example(model, images(2, SHAPE), None, mean_of_class_1)


def best_of_class_1(name, outputs):
    """The highest score of class 1 among all boxes."""
    return ops.max(outputs[name][..., 1], axis=1)


def best_of_all(name, outputs):
    """The highest score of all classes and boxes."""
    return ops.max(outputs[name], axis=(1, 2))


def retinanet(target=None):
    backbone = _hub().RetinaNetBackbone(
        image_encoder=resnet_backbone(), min_level=3, max_level=4, use_p5=False, image_shape=SHAPE
    )
    model = _hub().RetinaNetObjectDetector(backbone=backbone, num_classes=3, bounding_box_format="yxyx")
    # Boxes near their anchors, as a trained one has: untrained, they are of less than a pixel, which `predict` drops.
    last = model.box_head.prediction_layer
    kernel, bias = last.get_weights()
    last.set_weights([kernel / 1000, bias * 0])
    return Example(model, images(2, SHAPE), None, target)


def retinanet_of_class():
    return retinanet(functools.partial(best_of_class_1, "cls_logits"))


def dfine(target=None):
    features = _hub().HGNetV2Backbone(
        stem_channels=[3, 8, 8],
        stackwise_stage_filters=[[8, 8, 16, 1, 1, 3], [16, 8, 32, 1, 1, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, False],
        depths=[1, 1],
        hidden_sizes=[16, 32],
        embedding_size=8,
        use_learnable_affine_block=True,
        hidden_act="relu",
        image_shape=(None, None, 3),
        out_features=["stage1", "stage2"],
        data_format="channels_last",
    )
    backbone = _hub().DFineBackbone(
        backbone=features,
        decoder_in_channels=[16, 16],
        encoder_hidden_dim=16,
        num_denoising=10,
        num_labels=4,
        hidden_dim=16,
        learn_initial_query=False,
        num_queries=10,
        anchor_image_size=(32, 32),
        feat_strides=[4, 8],
        num_feature_levels=2,
        encoder_in_channels=[16, 32],
        encode_proj_layers=[1],
        num_attention_heads=2,
        encoder_ffn_dim=32,
        num_encoder_layers=1,
        hidden_expansion=0.5,
        depth_multiplier=0.5,
        eval_idx=-1,
        num_decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        decoder_method="default",
        decoder_n_points=[2, 2],
        lqe_hidden_dim=16,
        num_lqe_layers=1,
        out_features=["stage1", "stage2"],
        image_shape=(None, None, 3),
        data_format="channels_last",
        seed=0,
    )
    model = _hub().DFineObjectDetector(backbone=backbone, num_classes=4, bounding_box_format="yxyx")
    return Example(model, images(2, (32, 32, 3)), None, target)


def dfine_of_class():
    return dfine(functools.partial(best_of_class_1, "logits"))
