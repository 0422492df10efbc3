"""Planted bugs: each is a mistake that would cost money, and names the tests that must notice it."""
