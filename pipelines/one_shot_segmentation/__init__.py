"""Example pictures and a bucket of images in, masks and metrics in the bucket out."""
