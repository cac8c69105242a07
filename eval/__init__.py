"""Evaluation: metrics, statistics, load generator, gate and report; imports no torch, vLLM or Ray."""

# Increase this when the same predictions give other figures or another verdict of the gate.
VERSION = 2
