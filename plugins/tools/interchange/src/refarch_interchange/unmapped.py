"""peft's types that no technique of refarch's is, each with the reason."""

UNMAPPED: dict[str, str] = {}
