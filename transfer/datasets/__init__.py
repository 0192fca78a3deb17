"""Readers: each turns one annotation layout into the dataset object that every engine and evaluator uses."""
