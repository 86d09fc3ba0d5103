"""Read seeds, write round files and exports, check them."""
