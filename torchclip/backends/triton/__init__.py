"""The plan of a step on Triton's kernels: what the host reads, keeps, uploads and launches."""
