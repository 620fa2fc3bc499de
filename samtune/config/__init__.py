"""The YAML: what one trial is, and what is searched. Every error names the file, the line and the dotted key.

Knows pydantic and YAML; must not import torch or Ray.
"""
