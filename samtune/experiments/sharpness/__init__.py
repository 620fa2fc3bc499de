"""`samtune sharpness`: from trained networks of a search to numbers and pictures. Knows the layers below the CLI."""
