"""`python -m qgf_ref` is `qgf-ref`."""

import sys

from qgf_ref.cli.main import main

sys.exit(main())
