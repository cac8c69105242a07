"""Running a model: the vLLM process, its warm start, watchdog, pool and client; for teacher and serving."""
