"""What collections on database servers have in common, whichever engine keeps them."""
