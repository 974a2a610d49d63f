"""Reading and writing a coder's 16-bit words for the lanes that a mask names, packed in memory.

AVX-512 expands and compresses by an instruction; AVX2 permutes by a table with a row for each mask.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ._simd import AVX2, AVX512, AVX512_VBMI2, Block, Mask, call, data_of, join, split

_i8, _i16, _i64 = ir.IntType(8), ir.IntType(16), ir.IntType(64)


def _bits(builder: Any, kind: Mask, register: Any) -> tuple[Any, Any]:
    """A mask register as an integer, and how many bits of it are set, as int64."""
    bits = builder.bitcast(register, ir.IntType(kind.width))
    return bits, builder.zext(call(builder, f"llvm.ctpop.i{kind.width}", bits.type, [bits]), _i64)


def _permutations(builder: Any, name: str, rows: list[list[int]]) -> Any:
    """A constant table of byte rows, as pointer to its first."""
    flat = ir.Constant(ir.ArrayType(_i8, sum(map(len, rows))), bytearray(b"".join(map(bytes, rows))))
    table = cgutils.global_constant(builder.module, name, flat)
    return builder.bitcast(table, _i8.as_pointer())


def _permute(builder: Any, kind: Block, register: Any, table: Any, start: Any) -> Any:
    """The register's elements in the order of the `width` bytes at table[start]."""
    source = builder.bitcast(builder.gep(table, [start]), ir.VectorType(_i8, kind.width).as_pointer())
    order = builder.zext(builder.load(source, align=1), kind.register)
    name = "llvm.x86.avx2.permd" if kind.level == AVX2 else "llvm.x86.avx512.permvar.si.512"
    return call(builder, name, kind.register, [register, order])


# For each 8-bit mask: at set bits, how many bits below are set; and the set bits' places, to the right.
_EXPAND = [[bin(mask & ((1 << bit) - 1)).count("1") for bit in range(8)] for mask in range(256)]
_COMPRESS = [
    [bit for bit in range(8) if not mask >> bit & 1] + [bit for bit in range(8) if mask >> bit & 1]
    for mask in range(256)
]


@intrinsic
def read_words(typing_context, words, position, mask):
    """(block, position): the next 16-bit words, one for each set bit of the mask; other lanes are garbage.

    Reads no more than `lanes` words from `position` on.
    """
    kind = Block(mask.level, mask.lanes)

    def generate(context, builder, signature, arguments):
        data = data_of(context, builder, words, arguments[0])
        place = arguments[1]
        registers = []
        for bits_of in split(builder, mask, arguments[2]):
            half = ir.VectorType(_i16, mask.width)
            source = builder.bitcast(builder.gep(data, [place]), half.as_pointer())
            unread = builder.load(source, align=2)
            bits, count = _bits(builder, mask, bits_of)
            if mask.level == AVX512_VBMI2:
                name = "llvm.x86.avx512.mask.expand.v16i16"
                spread = call(builder, name, half, [unread, ir.Constant(half, None), bits_of])
                registers.append(builder.zext(spread, kind.register))
            elif mask.level == AVX512:
                name = "llvm.x86.avx512.mask.expand.v16i32"
                wide = builder.zext(unread, kind.register)
                registers.append(
                    call(builder, name, kind.register, [wide, ir.Constant(kind.register, None), bits_of])
                )
            else:
                table = _permutations(builder, "quadrans.expand", _EXPAND)
                start = builder.shl(builder.zext(bits, _i64), _i64(3))
                wide = builder.zext(unread, kind.register)
                registers.append(_permute(builder, kind, wide, table, start))
            place = builder.add(place, count)
        return context.make_tuple(builder, signature.return_type, [join(builder, kind, registers), place])

    return types.Tuple((kind, types.int64))(words, types.int64, mask), generate


@intrinsic
def write_words(typing_context, words, position, mask, block):
    """Puts the low halves of the lanes whose bits are set before words[position]; returns the new position.

    Writes garbage to at most a register's width of words before that.
    """

    def generate(context, builder, signature, arguments):
        data = data_of(context, builder, words, arguments[0])
        place = arguments[1]
        masks, values = split(builder, mask, arguments[2]), split(builder, block, arguments[3])
        half = ir.VectorType(_i16, block.width)
        for bits_of, value in zip(reversed(masks), reversed(values), strict=True):
            bits, count = _bits(builder, mask, bits_of)
            if block.level == AVX2:
                table = _permutations(builder, "quadrans.compress", _COMPRESS)
                row = builder.shl(builder.zext(bits, _i64), _i64(3))
                packed = _permute(builder, block, value, table, row)
            else:
                zero = ir.Constant(block.register, None)
                name = "llvm.x86.avx512.mask.compress.v16i32"
                left = call(builder, name, block.register, [value, zero, bits_of])
                # Rotated by the count, so that the packed elements end the register.
                table = _permutations(builder, "quadrans.rotate", [[i % 16 for i in range(32)]])
                packed = _permute(builder, block, left, table, count)
            start = builder.gep(data, [builder.sub(place, _i64(block.width))])
            builder.store(builder.trunc(packed, half), builder.bitcast(start, half.as_pointer()), align=2)
            place = builder.sub(place, count)
        return place

    return types.int64(words, types.int64, mask, block), generate
