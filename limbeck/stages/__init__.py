"""The stages of a run, one module each: what the stage depends on, its work and its headline figure."""
