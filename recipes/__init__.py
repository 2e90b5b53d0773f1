"""Training runs as command lines; ``python -m recipes.demo`` is the one that needs no download."""
