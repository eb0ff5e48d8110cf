"""`postroom accounts …`: one module for each group of commands."""
