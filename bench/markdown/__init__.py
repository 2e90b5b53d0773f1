"""docs/benchmarks.md, written from the files of runs."""
