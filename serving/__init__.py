"""Second floor: bundle → engine (vLLM) → head cache → router → gateway."""
