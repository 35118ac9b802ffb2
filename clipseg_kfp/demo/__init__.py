"""The embedded demo: drawn scenes with exact ground truth, and the small model trained on them."""
