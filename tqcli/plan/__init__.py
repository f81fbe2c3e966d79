"""The cache plan: which bytes K and V become, and what is done around them."""
