"""The image tasks of the paper (sections 5 and 6.1): classification and reconstruction."""
