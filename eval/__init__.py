"""First floor: judges. Metrics, statistics, load, report; no torch, no vLLM, no Ray."""
