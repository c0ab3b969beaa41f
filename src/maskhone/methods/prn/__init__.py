"""PatchRefineNet: corrects the patch-wise bias of a base model's scores."""
