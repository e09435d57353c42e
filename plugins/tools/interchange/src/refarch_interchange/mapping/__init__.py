"""What peft's names are here: types, settings, modules and tensors, as tables and the rules that read them."""
