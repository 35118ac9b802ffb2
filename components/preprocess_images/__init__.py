"""Images to packed views."""
