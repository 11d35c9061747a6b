"""Small files that unpack to large ones."""

import io
import struct
import zipfile
import zlib

import numpy as np


def png_of(side: int) -> bytes:
    """A valid PNG of side * side black pixels, a bit each."""
    packer = zlib.compressobj()
    row = bytes(1 + (side + 7) // 8)
    rows = b''.join(packer.compress(row) for _ in range(side)) + packer.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')


def zip_of_zeros(size: int) -> bytes:
    """An `.npz` with one array of zeros of so many bytes."""
    file, header = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {'descr': '|u1', 'fortran_order': False, 'shape': (size,)})
    with (
        zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open('a.npy', 'w', force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(size >> 24):
            member.write(bytes(1 << 24))
    return file.getvalue()
