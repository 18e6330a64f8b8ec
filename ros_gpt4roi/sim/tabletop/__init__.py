"""Rendered objects on a table: scenes with exact ground truth, and questions about them with their true answers."""
