"""LiteMedSAM (bowang-lab/MedSAM, branch LiteMedSAM): zero-shot and fine-tuned. Importing this imports no torch."""
