"""foreground: which fine clusters of tokens are foreground, found without labels."""
