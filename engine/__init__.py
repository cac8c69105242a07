"""Running a model: engines behind one interface, their watchdog and pool; vLLM is currently the only kind of engine."""
