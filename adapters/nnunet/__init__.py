"""nnU-Net v2, without and with the prompts as a channel: its own planner, preprocessor, trainer and predictor."""
