"""What is asked of a collection, or of a film?"""
