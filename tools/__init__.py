"""What only maintainers run: training of the demo model, pictures of the docs, READMEs, the gallery."""
