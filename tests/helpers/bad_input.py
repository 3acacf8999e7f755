"""A trace on the command line."""

from __future__ import annotations

TRACE = "trace --checkpoint model.safetensors --input in.npz --weight 0.3 --out out.npz"
