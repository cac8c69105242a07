"""Labels in the files of annotation tools: Label Studio, doccano, CoNLL. One module a format reads and writes it.

A reader yields `Annotated` examples; what a format or a task cannot carry is told as a `Loss`, never dropped silently.
"""
