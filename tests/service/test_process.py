"""Nothing is reported to anybody: the conversion of an encoder by OpenVINO asks the network for nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from folders import ROOT

CONVERT = """
import sys
asked = []
sys.addaudithook(lambda event, args: asked.append((event, args[:2])) if event in WATCHED else None)
WATCHED = {"socket.getaddrinfo", "socket.connect", "urllib.Request", "os.fork"}  # a fork would report unseen
from service.process import disable_telemetry
disable_telemetry()
import numpy as np
from encoder.network.config import EncoderConfig
from encoder.embedder import Embedder
from encoder.network.model import DualEfficientNetEncoder
from encoder.films.preprocess import Preprocessing
encoder = DualEfficientNetEncoder(EncoderConfig(backbone="test_efficientnet", embedding_dim=256)).eval()
made = Embedder(encoder, Preprocessing(size=64), device="cpu", runtime="openvino-fp32")
print(made.runtime.name, asked)
"""


@pytest.mark.slow
def test_a_conversion_by_openvino_reports_nothing(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    environ = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environ |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}

    command = [sys.executable, "-c", CONVERT]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=ROOT)

    assert done.stdout.strip() == "openvino-fp32 []", done.stderr[-500:]
    assert list(tmp_path.rglob("*openvino*")) == []  # the id that a report begins with
