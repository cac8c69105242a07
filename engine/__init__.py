"""Running a model: engines behind one interface, their watchdog and pool; vLLM is the one kind of engine so far."""
