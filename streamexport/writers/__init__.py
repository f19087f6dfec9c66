"""Nets as layouts of files, one module per format; `formats` knows them all."""
