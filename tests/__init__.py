"""Tests of the whole: see README.md."""

import os
import sys

# containers often say that no bytecode is to be written: each of the many processes that tests
# start would compile all of the package anew, and take three times as long to begin
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
