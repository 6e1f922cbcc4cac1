"""Collections in Milvus, for archives that outgrow one machine: the same answers as those of an index folder.

It must not be imported where no Milvus is asked for; pymilvus is an extra.
"""
