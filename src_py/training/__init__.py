"""Fine-tuning: the Trainer, its batches and checkpoints, and one process for each GPU."""
