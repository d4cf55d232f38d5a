"""Breaks at once."""

import sys

sys.exit("the configuration is missing")
