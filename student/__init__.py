"""Second floor: curriculum → ids and positions → Ray Train LoRA → adapter → merge → export."""
