"""The demo: drawn scenes with exact ground truth, and the pipelines over them."""
