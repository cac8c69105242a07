"""Ground floor: the vocabulary (query, role, label, task), the normaliser, the codec, and data in and out."""
