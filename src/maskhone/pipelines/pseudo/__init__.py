"""From image labels to masks: what the stages of `pipelines.pseudo_labels` are made of."""
