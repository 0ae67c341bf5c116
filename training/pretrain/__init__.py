"""Pre-training: corpus text to a vocabulary, and to an encoder that `training.finetune` starts from."""
