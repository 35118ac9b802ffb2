"""What a site sets for its cluster, and packages that are compiled with it."""
