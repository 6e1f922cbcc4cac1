"""Published encoders of chest films: the network of each, how it takes a film, and what its licence says."""

from collections.abc import Mapping
from dataclasses import dataclass

from encoder.films.preprocess import IMAGENET_MEAN, IMAGENET_STD, Fit
from encoder.network.backbone import XRV_RANGE
from encoder.network.config import Option

Statistics = tuple[float, ...]
_HALF = (0.5, 0.5, 0.5)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Family:
    """One published encoder, or several that differ in width alone."""

    name: str
    networks: Mapping[int, str]
    """timm's name by the output channels of the first convolution."""
    licence: str
    """One line on the weights' licence, as their publishers state it; not legal advice."""
    size: int = 224
    mean: Statistics = IMAGENET_MEAN
    std: Statistics = IMAGENET_STD
    fit: Fit = "crop"
    margin: int = 0
    options: tuple[tuple[str, Option], ...] = ()
    dim: int = 0
    """D of the pooled film; 0 where it is that convolution's width."""
    projection: int = 0
    """D after the projection into the space of a text encoder, which the network then ends in; 0 has none."""
    first_scale: float = 1.0
    """What the first convolution is multiplied with, for weights of films in another range than [-1, 1]."""

    @property
    def dims(self) -> str:
        """D, one for each width."""
        return ", ".join(str(self.projection or self.dim or width) for width in self.networks)


_DINOV2 = {
    384: "vit_small_patch14_dinov2",
    768: "vit_base_patch14_dinov2",
    1024: "vit_large_patch14_dinov2",
}
_CLIP = {768: "vit_base_patch32_clip_quickgelu_224"}
_RESNET = {64: "resnet50"}
_DENSENET = {64: "densenet121"}
_ASU = "ASU licence, non-commercial; by request form; passed on for academic use only"

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            "rad-dino",
            {768: _DINOV2[768]},
            "MIT (MSRLA before 2025); its card: research only",
            size=518,
            mean=(0.5307,) * 3,
            std=(0.2583,) * 3,
        ),
        Family(
            "rad-dino-maira-2",
            {768: _DINOV2[768]},
            "MSRLA: research, non-commercial",
            size=518,
            mean=(0.5307,) * 3,
            std=(0.2583,) * 3,
        ),
        Family("dinov2", _DINOV2, "Apache-2.0 for Meta's own weights; others': see their card"),
        Family(
            "cxformer",
            {384: "vit_small_patch14_reg4_dinov2", 768: "vit_base_patch14_reg4_dinov2"},
            "CC BY-NC 4.0, limited to research; frontal films only",
            size=518,
        ),
        Family(
            "dinov3",
            {384: "vit_small_patch16_dinov3_qkvb", 768: "vit_base_patch16_dinov3_qkvb"},
            "DINOv3 licence (not Apache)",
            options=(("global_pool", "token"),),  # timm's own is the mean
        ),
        Family(
            "eva-x",
            {192: "eva02_tiny_patch14_224", 384: "eva02_small_patch14_224", 768: "eva02_base_patch14_224"},
            "MIT by its README's badge; its repository has no LICENSE file",
            mean=(0.49185243,) * 3,
            std=(0.28509309,) * 3,
            margin=16,
            options=(("patch_size", 16), ("ref_feat_shape", (14, 14))),
        ),
        Family(
            "medical-mae",
            {384: "vit_small_patch16_224", 768: "vit_base_patch16_224"},
            "Apache-2.0 for the code; trained on MIMIC-CXR, CheXpert and NIH, whose terms hold",
            mean=(0.5056,) * 3,
            std=(0.252,) * 3,
            margin=16,
            options=(("global_pool", "avg"),),
        ),
        Family(
            "medsiglip",
            {1152: "vit_so400m_patch14_siglip_378"},
            "HAI-DEF is provided under and subject to the Health AI Developer Foundations Terms of Use; a hosted "
            "service counts as distribution, clinical use is restricted",
            size=448,
            mean=_HALF,
            std=_HALF,
            fit="squash",
            options=(("act_layer", "gelu_tanh"),),  # timm's own is the exact GELU
        ),
        Family(
            "biomedclip",
            {768: "vit_base_patch16_224"},
            "MIT; its card: research only",
            mean=_CLIP_MEAN,
            std=_CLIP_STD,
            projection=512,
        ),
        Family("pubmedclip", _CLIP, "MIT", mean=_CLIP_MEAN, std=_CLIP_STD, projection=512),
        Family("chexzero", _CLIP, "MIT for the code", mean=(0.398,) * 3, std=(0.327,) * 3, projection=512),
        Family(
            "cxr-clip-swin", {96: "swin_tiny_patch4_window7_224"}, "CC BY-NC-SA 4.0", mean=_HALF, std=_HALF, dim=768
        ),
        Family("cxr-clip-resnet", _RESNET, "CC BY-NC-SA 4.0", dim=2048, mean=_HALF, std=_HALF),
        Family("ark", {128: "swin_base_patch4_window7_224"}, _ASU, dim=1024),
        Family("ark-plus", {192: "swin_large_patch4_window12_384"}, _ASU, size=768, dim=1536),
        Family(
            "medimageinsight",
            {256: "davit_huge_fl"},
            "unclear: ask Microsoft; copies tagged MIT are of doubtful standing",
            size=480,
            dim=2048,
            projection=1024,
        ),
        Family("biovil", _RESNET, "MIT", dim=2048, size=480, mean=(0.0,) * 3, std=(1.0,) * 3, margin=16),
        Family("resnet50", _RESNET, "see its publisher (MGCA, GLoRIA, ConVIRT, MoCo-CXR and others)", dim=2048),
        Family("xrv-resnet", _RESNET, "Apache-2.0", dim=2048, size=512, mean=(0.5,), std=(0.5,), first_scale=XRV_RANGE),
        Family("xrv-densenet", _DENSENET, "Apache-2.0", dim=1024, mean=(0.5,), std=(0.5,), first_scale=XRV_RANGE),
        Family("densenet121", _DENSENET, "see its publisher (torchvision, LibAUC and others)", dim=1024),
    )
}
"""Every family by its name."""
