"""What runs a network? torch, or OpenVINO on the same weights, in single precision, bf16 or int8."""
