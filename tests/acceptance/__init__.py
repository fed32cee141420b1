"""Tests of whole programs, as a person would run them."""
