"""Collections in PostgreSQL with pgvector, for those who run PostgreSQL already: the same answers as those of an index
folder. psycopg is an extra.
"""
