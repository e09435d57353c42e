"""What a technique costs on a backbone, before any training: everything is counted on the meta device."""
