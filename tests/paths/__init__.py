"""What is claimed of torch, the decode paths and the fixed path."""
