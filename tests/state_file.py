"""The other side of state_file_test: Python's `safetensors` package.

usage: state_file.py write FILE          a file with one tensor of each type that dattn holds
       state_file.py rewrite FROM TO     reads a file and writes what it holds
       state_file.py judge FILE          reads pieces (8 bytes of length, then a safetensors file), prints ok or the error for each
"""
import ctypes
import json
import struct
import sys

import safetensors

NAMES = {'F64': 'float64', 'F32': 'float32', 'BF16': 'bfloat16', 'I64': 'int64', 'I32': 'int32', 'U8': 'uint8'}


def save(path, tensors, metadata):
    """tensors: name -> (type, shape, bytes)."""
    if hasattr(safetensors, 'TensorSpec'):
        buffers = {name: ctypes.create_string_buffer(data, len(data)) for name, (_, _, data) in tensors.items()}
        tensors = {name: safetensors.TensorSpec(dtype=NAMES[t], shape=shape, data_ptr=ctypes.addressof(buffers[name]), data_len=len(data))
                   for name, (t, shape, data) in tensors.items()}
    else:
        tensors = {name: {'dtype': NAMES[t], 'shape': shape, 'data': data} for name, (t, shape, data) in tensors.items()}
    with open(path, 'wb') as file:
        file.write(safetensors.serialize(tensors, metadata))


def write(path):
    save(path, {
        'doubles': ('F64', [2, 3], struct.pack('<6d', 0, 0.1, -2.5, 1e300, -1e-300, 7)),
        'floats': ('F32', [3], struct.pack('<3f', 0.5, -0.25, 3e38)),
        'halves': ('BF16', [2], struct.pack('<2H', 0x3f80, 0xc000)),
        'longs': ('I64', [], struct.pack('<q', -(2**62))),
        'ints': ('I32', [1, 1, 2], struct.pack('<2i', -5, 2**31 - 1)),
        'bytes': ('U8', [4], bytes([0, 1, 128, 255])),
        'nothing "quoted" \n\u00e4': ('F32', [0, 5], b''),
    }, {'op': 'any', 'umlaut': '\u00e4\u20ac\U0001f600'})


def rewrite(source, target):
    with open(source, 'rb') as file:
        data = file.read()
    tensors = {name: (t['dtype'], t['shape'], bytes(t['data'])) for name, t in safetensors.deserialize(data)}
    length, = struct.unpack_from('<Q', data)  # safe_open gives the metadata too, but needs numpy
    save(target, tensors, json.loads(data[8:8 + length]).get('__metadata__'))


def judge(path):
    with open(path, 'rb') as file:
        pieces = file.read()
    place = 0
    while place < len(pieces):
        length, = struct.unpack_from('<Q', pieces, place)
        place += 8 + length
        try:
            safetensors.deserialize(pieces[place - length:place])
            print('ok')
        except Exception as error:  # its error type has moved between versions
            print(str(error).replace('\n', ' ').encode('ascii', 'replace').decode())


{'write': write, 'rewrite': rewrite, 'judge': judge}[sys.argv[1]](*sys.argv[2:])
