"""Whole jobs as local processes that outlive us: the embedded executor, ``subprocess``."""
