"""How do films become vectors? Studies, encoders, exports."""
