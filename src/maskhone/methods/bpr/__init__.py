"""BPR: boundary patch refinement (Tang et al., CVPR 2021)."""
