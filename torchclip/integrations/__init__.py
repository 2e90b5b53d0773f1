"""What frameworks need beside an optimizer: a module for each, none imported by the rest of the package.

A module imports its framework when it is called, not when it is imported.
"""
