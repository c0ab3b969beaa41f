"""Arrays in, arrays out: boxes, patches, masks, the dense CRF."""
