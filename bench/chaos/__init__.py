"""Attacks on a real service process: each is one function that measures and says whether what is wanted holds."""
