"""The code of a whole stored cache: what one layer tells of the next is not stored again."""
