"""What every part of the harness uses and none of it is about decoding."""
