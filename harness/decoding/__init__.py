"""The fixed path: decode attention with static shapes. It needs torch alone."""
