#!/usr/bin/env bash
# How the golden runs were made, once, by genzoo 0.1.0. Never again: a later genzoo has to read what is here.
set -euo pipefail
here=$(dirname "$0")
for name in moons digits; do
  genzoo bench "$here/$name.toml" --plugin "$here/../fixtures/plugins/harness_models.py" --jobs 1 -o "$here/$name" || test $? = 3
  genzoo eval "$here/$name" --plugin "$here/../fixtures/plugins/harness_models.py" --points 32
  rm -f "$here/$name/report.html"
done
python - "$here/state.safetensors" <<'PYTHON'
import sys
from pathlib import Path

import torch

from genzoo.state import save_state

tree = {
    "learner": {"weights": {"w": torch.arange(6.0).view(2, 3)}, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}},
    "rng": [torch.arange(8, dtype=torch.uint8)],
    "best": [float("inf"), {"w": torch.zeros(2, 3)}],
    "curve": [(1, 20, 0.5, 2.25, None)],
    "step": 3,
    "converged": False,
}
save_state(Path(sys.argv[1]), tree)
PYTHON
