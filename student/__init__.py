"""The student: curriculum → ids and positions → Ray Train LoRA → adapter → merge → export."""

# Of `student.label_errors`. Increase this when the same predictions give other suspect labels.
LABEL_ERRORS = 1
