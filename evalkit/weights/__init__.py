"""Everything that touches model weights: loading, the five verbs, fine-tuning, export.

torch and its company are imported inside functions, so importing these modules costs nothing.
"""
