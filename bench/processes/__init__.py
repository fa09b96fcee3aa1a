"""Processes that run a method: the engine, and the worker of an arm."""
