"""What has changed since the index was built?

Additions and deletions that survive a kill, compaction, snapshots, and verification.
"""
