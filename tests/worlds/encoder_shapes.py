"""Configurations of tiny encoders: one of each shape that a runtime has to run."""

TINY = {"backbone": "test_efficientnet", "embedding_dim": 256}
SHAPES = {
    "separate": TINY,
    "shared": TINY | {"use_shared_weights": True},
    "single": {"architecture": "single", "backbone": "test_efficientnet", "embedding_dim": 0, "position_input": True},
}
