"""Types of columns that mean the same in every database."""

from sqlalchemy import BigInteger, Integer

Whole = BigInteger().with_variant(Integer(), "sqlite")
"""A whole number of 64 bits: an `integer` of PostgreSQL has 32, and numbers come from outside. SQLite has one size, and
numbers rows by `INTEGER` alone."""
