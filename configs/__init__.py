"""certseg's config groups, installed as ``certseg.configs``: Hydra finds them as ``pkg://certseg.configs``."""
