"""The answer forms: how a labelling becomes what a student reads off or writes."""
