"""Layouts to where they belong, by the fastest way that the two ends allow: all of it, or what was there before."""
