"""Networks of other packages, built from their configurations: each is in the zoo where its package is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.network import Example, Network, images, vectors


def timm(name: str, size: int = 64, **options: Any) -> Callable[[], Example]:
    """A network of timm by its name, at a small resolution."""

    def make() -> Example:
        from timm import create_model

        return Example(create_model(name, num_classes=100, **options), (images(3, size),))

    return make


def smp(kind: str, encoder: str = "resnet18", size: int = 64, **options: Any) -> Callable[[], Example]:
    """A network of segmentation-models-pytorch."""

    def make() -> Example:
        import segmentation_models_pytorch

        build = getattr(segmentation_models_pytorch, kind)
        return Example(build(encoder, encoder_weights=None, classes=4, **options), (images(3, size),))

    return make


def monai(name: str, inputs: Callable[[], Tensor], **options: Any) -> Callable[[], Example]:
    """A network of MONAI."""

    def make() -> Example:
        import monai.networks.nets as nets

        return Example(getattr(nets, name)(**options), (inputs(),))

    return make


def yolo(config: str, size: int = 320) -> Callable[[], Example]:
    """A detector of ultralytics, in the form that it exports itself."""

    def make() -> Example:
        from ultralytics.nn.tasks import DetectionModel

        model = DetectionModel(config, verbose=False)
        for module in model.modules():
            if hasattr(module, "export"):
                module.export = True
                module.format = "onnx"
        return Example(model, (images(3, size),))

    return make


class Graph(nn.Module):
    """Two layers of torch_geometric on a graph that is known."""

    def __init__(self, layer: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.second, self.last = layer(16, 32), layer(32, 32), nn.Linear(32, 4)
        self.register_buffer("edges", torch.randint(0, 30, (2, 90), generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(x, self.edges)), self.edges)))


def geometric(layer: str) -> Callable[[], Example]:
    def make() -> Example:
        import torch_geometric.nn as layers

        return Example(Graph(getattr(layers, layer)), (torch.randn(30, 16),), None)

    return make


TIMM: dict[str, tuple[int, dict[str, Any], float | None]] = {
    "mobilenetv3_large_100": (224, {}, 4.0),
    "efficientnet_b0": (224, {}, 3.0),
    "convnext_atto": (224, {}, 2.0),
    "vit_tiny_patch16_224": (224, {}, 2.0),
    "swin_tiny_stage": (224, {"depths": (2,), "num_heads": (3,)}, 1.8),
    "edgenext_xx_small": (64, {}, None),
    "ghostnet_100": (64, {}, None),
    "mobileone_s0": (64, {}, None),
    "regnetx_002": (64, {}, None),
    "repvgg_a0": (64, {}, None),
    "botnet26t_256": (64, {"img_size": 64}, None),
    "mobilevit_xxs": (64, {}, None),
    "levit_128s": (224, {}, None),
    "poolformer_s12": (64, {}, None),
    "fastvit_t8": (64, {"layers": (1, 1, 1, 1)}, None),
    "coatnet_pico_rw_224": (224, {}, None),
    "hrnet_w18_small": (64, {}, None),
    "res2net50_14w_8s": (64, {"layers": (1, 1, 1, 1)}, None),
    "efficientvit_b0": (64, {}, None),
    "mobilenetv4_conv_small": (64, {}, None),
    "xcit_nano_12_p16_224": (224, {"depth": 2}, None),
    "pvt_v2_b0": (64, {}, None),
    "gcvit_xxtiny": (224, {}, None),
    "skresnet18": (64, {}, None),
    "inception_v3": (96, {}, None),
    "eca_nfnet_l0": (64, {}, None),
    "starnet_s1": (64, {}, None),
    "mambaout_femto": (64, {}, None),
}

OTHERS = {
    **{
        f"smp_{kind.lower()}": Network("segmentation", smp(kind, size=128), ("segmentation_models_pytorch",))
        for kind in ("FPN", "Linknet", "PAN", "DeepLabV3Plus", "UnetPlusPlus")
    },
    "smp_unet_mobilenet": Network("segmentation", smp("Unet", "mobilenet_v2"), ("segmentation_models_pytorch",)),
    "monai_dynunet": Network(
        "segmentation",
        monai(
            "DynUNet",
            lambda: images(1, 64),
            spatial_dims=2,
            in_channels=1,
            out_channels=2,
            kernel_size=[3, 3, 3],
            strides=[1, 2, 2],
            upsample_kernel_size=[2, 2],
            filters=[16, 32, 64],
        ),
        ("monai",),
    ),
    "monai_segresnet_3d": Network(
        "segmentation",
        monai(
            "SegResNet", lambda: vectors(1, 16, 16, 16), spatial_dims=3, init_filters=8, in_channels=1, out_channels=2
        ),
        ("monai",),
    ),
    "monai_unetr": Network(
        "segmentation",
        monai(
            "UNETR",
            lambda: images(1, 32),
            in_channels=1,
            out_channels=2,
            img_size=(32, 32),
            feature_size=8,
            hidden_size=48,
            mlp_dim=96,
            num_heads=4,
            spatial_dims=2,
        ),
        ("monai",),
    ),
    "yolov8n": Network("detection", yolo("yolov8n.yaml"), ("ultralytics",), 3.0),
    "yolo11n": Network("detection", yolo("yolo11n.yaml"), ("ultralytics",)),
    "pyg_gcn": Network("graph", geometric("GCNConv"), ("torch_geometric",)),
    "pyg_gat": Network("graph", geometric("GATConv"), ("torch_geometric",)),
    "pyg_sage": Network("graph", geometric("SAGEConv"), ("torch_geometric",)),
}


def _timm_networks() -> dict[str, Network]:
    names = {"swin_tiny_stage": "swin_tiny_patch4_window7_224"}
    found = {}
    for name, (size, options, aim) in TIMM.items():
        kind = "transformer" if "vit" in name or "swin" in name or "coat" in name else "classification"
        found[f"timm_{name}"] = Network(kind, timm(names.get(name, name), size, **options), ("timm",), aim)
    return found


NETWORKS = {**_timm_networks(), **OTHERS}
