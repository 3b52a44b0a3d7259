"""Diagnosis: which fault model explains a wrong output."""
