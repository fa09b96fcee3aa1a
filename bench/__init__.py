"""The harness: vocabulary, store, runner, scoring, timing and the command line."""
