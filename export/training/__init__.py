"""What makes weights: epochs on labels, distillation with and without them, pretraining."""
