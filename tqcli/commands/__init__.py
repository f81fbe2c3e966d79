"""One module a command: parse, call, report; no arithmetic."""
