"""Studies on a task: curriculum ablation, LoRA sweep, answer forms, adapter composition, context audit."""
