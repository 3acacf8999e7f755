#!/usr/bin/env bash
# pip installs rliable with a pandas on which its intervals cannot be imported: its metrics work, its
# bootstrap (rliable.library) raises TypeError before the first number.
#
# Expected: `pip install rliable` gives what the papers of this field report their results with:
# interquartile means, probability of improvement, and stratified bootstrap intervals of both.
# Seen (rliable 1.2.0, the newest, with arch 7.2.0, which it takes for the bootstrap, and pandas 3.1.1,
# which nothing forbids): `from rliable import metrics` works; `from rliable import library` raises
# TypeError: deprecate_kwarg() missing 1 required positional argument, inside arch. pandas 3 gave a
# helper of its own another first parameter, and arch's released code calls it with the old ones. With
# pandas 2 (here 2.3.3) the same two packages work.
# Why it matters: a table's numbers can be made, its intervals cannot, and the trace names neither the
# reporting library nor pandas's version. Where pandas may not be held back, the intervals are ten lines of
# NumPy (a stratified bootstrap draws the runs of each task again) and can be checked on pandas 2.
# Versions: rliable 1.2.0, arch 7.2.0, pandas 3.1.1 and 2.3.3.
# Source: observed; the signature is pandas.util._decorators.deprecate_kwarg in either version.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
pip=("$place/venv/bin/python" -m pip --disable-pip-version-check install --quiet)
"${pip[@]}" "rliable==1.2.0" "arch==7.2.0" "pandas==3.1.1"
cat > "$place/intervals.py" <<'PYTHON'
import sys
import warnings

import numpy as np
import pandas

warnings.simplefilter("ignore")
from rliable import metrics

scores = np.random.default_rng(0).random((10, 5))
print(f"pandas {pandas.__version__}: metrics.aggregate_iqm: {metrics.aggregate_iqm(scores):.4f}")
seen = "works"
try:
    from rliable import library

    _, interval = library.get_interval_estimates(
        {"x": scores}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=1000
    )
    print(f"  95% by library.get_interval_estimates: {interval['x'].ravel().round(2)}")
except TypeError as error:
    seen = "TypeError"
    print(f"  library: TypeError: {error}")
if seen != sys.argv[1]:
    sys.exit(f"that has changed: expected {sys.argv[1]}")
PYTHON
"$place/venv/bin/python" "$place/intervals.py" TypeError
"${pip[@]}" "pandas==2.3.3"
"$place/venv/bin/python" "$place/intervals.py" works
