"""RWS: training on the regions that a network attends to least."""
