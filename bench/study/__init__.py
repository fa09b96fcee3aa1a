"""The study file, and what is made of it: arms, cohort, methods and sources by name, weights."""
