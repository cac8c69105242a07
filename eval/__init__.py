"""Evaluation: metrics, statistics, load generator, gate and report; imports no torch, vLLM or Ray."""
