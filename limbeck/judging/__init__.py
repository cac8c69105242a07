"""Judging a student: what every system answers on gold, the served bundle, the gate and its evidence, comparisons."""
