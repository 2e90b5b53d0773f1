"""What ``python -m recipes compare`` is made of: studies, their runs, their figures and tables."""
