"""The oracles are for development: without their packages the folder holds no test."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("pingouin") and find_spec("scikit_posthocs") else ["test_oracles.py"]
