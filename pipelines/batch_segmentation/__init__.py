"""A bucket of images in, masks and metrics in the bucket out."""
