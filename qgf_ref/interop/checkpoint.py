"""Where checkpoints were until 0.1; scripts import `Checkpoint` and `Options` from here."""

from qgf_ref.agents.checkpoint import Checkpoint as Checkpoint
from qgf_ref.agents.checkpoint import Options as Options
