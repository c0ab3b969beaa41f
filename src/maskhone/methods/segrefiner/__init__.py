"""SegRefiner: refinement of any mask by discrete diffusion."""
