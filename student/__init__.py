"""The student: curriculum → ids and positions → Ray Train LoRA → adapter → merge → export."""
