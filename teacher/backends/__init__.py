"""Where labels come from: a catalogue without an LLM, an LLM, a batch API, a local model, imported labels."""
