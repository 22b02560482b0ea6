"""Numbers that look random and are the same here and in the kernels. Standard library only."""

MASK = 0xFFFFFFFF


def mix(x: int) -> int:
    """As mix() of kernels/gpu.cuh. 32 bits."""
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK
    x ^= x >> 15
    x = x * 0x846CA68B & MASK
    return x ^ x >> 16


def operand(seed: int, index: int) -> int:
    """As operand() of kernels/matrix.cu: -127 to 127."""
    return (mix((index ^ seed) & MASK) >> 8) % 255 - 127
