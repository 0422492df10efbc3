"""What `python -m audit_trail` can be asked: one module for each family of commands."""
