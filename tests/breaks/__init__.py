"""Breaks: one mistake in each room of the house, and the tests of a day that must see it.

``table``  the breaks: which text of which file becomes which, and who turns red
``plant``  a copy of the checkout, a break planted in it, and what its tests say

``python -m tests.breaks`` plants each in turn (some minutes).
"""
