"""Benchmarks: what a step of ours costs beside what a person would use instead, measured in the same run."""
