"""The Triton side of the maths: one function per functor of ``csrc/rules``, the pipeline, and the generator.

These are the element functions, each the counterpart of a C++ header of the same name. Importing them needs Triton.
"""
